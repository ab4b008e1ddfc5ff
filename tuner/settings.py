"""The knobs: how a clip is made. The single source of truth.

The page's widgets, the command line's flags, the preset schema and the reference in the README are
generated from :class:`Settings`, so none of them can drift from what the engine reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, get_args, get_origin

from pydantic import model_validator

from tuner.checked import Checked
from tuner.errors import BadInput

GIB = 1024**3


class Text(NamedTuple):
    """The same words in the page's two languages."""

    en: str
    zh: str


@dataclass(frozen=True)
class Knob:
    """What a person needs to know about one setting.

    Attributes:
        title: Its name on the page.
        help: One or two sentences: what it changes, what it costs.
        unit: Unit of the value, empty for a choice.
        choices: The allowed values, or empty when any value in the range is allowed.
        minimum: Smallest allowed value of a range.
        maximum: Largest allowed value of a range.
        step: Step of the page's slider.
        lossless: Whether the result equals stock's (float32, relative 1e-5).
        advanced: Whether the page keeps it in the Advanced accordion.
    """

    title: Text
    help: Text
    unit: str = ""
    choices: tuple[int | str, ...] = ()
    minimum: float = 0
    maximum: float = 0
    step: float = 1
    lossless: bool = True
    advanced: bool = True

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.choices:
            return ", ".join(str(choice) for choice in self.choices)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.minimum:g} to {self.maximum:g}{unit}"

    def check(self, name: str, value: object) -> None:
        """Raise :class:`BadInput` unless ``value`` is allowed."""
        if self.choices:
            fine = value in self.choices
        else:
            fine = isinstance(value, int | float) and self.minimum <= value <= self.maximum
        if not fine:
            raise BadInput(name, value, self.allowed)


Layout = Literal["contiguous", "chunked", "interleaved"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["native", "_native_flash", "_native_efficient", "_native_math", "flash", "sage", "xformers"]
TextProjection = Literal["original", "diffusers"]
StepCaching = Literal["off", "first_block"]
Engine = Literal["tuned", "stock"]


class Settings(Checked):
    """How to make a clip. Every field is lossless unless its knob says otherwise.

    Raises:
        BadInput: A value is of the wrong type or outside what its knob allows.
    """

    chunk_size: Annotated[
        int,
        Knob(
            title=Text("Chunk size", "分块大小"),
            help=Text(
                "Video frames a VAE pass holds at once; 0 means all of them. Fewer frames lower the peak of "
                "encoding and decoding, more frames give the device larger work.",
                "VAE 每次处理的视频帧数；0 表示全部。帧数少则编码、解码的显存峰值低，"
                "帧数多则设备每次做的工作更大。",
            ),
            unit="frames",
            choices=(0, 1, 2, 4, 8, 16, 32, 64),
            advanced=False,
        ),
    ] = 4
    batch_size: Annotated[
        int,
        Knob(
            title=Text("Batch size", "批大小"),
            help=Text(
                "Samples per transformer forward (guidance branches x clips). 1 runs the guidance branches one "
                "after the other and halves the denoising activations.",
                "Transformer 每次前向的样本数（引导分支数 × 视频数）。1 表示逐个运行引导分支，去噪激活减半。",
            ),
            unit="samples",
            minimum=1,
            maximum=16,
            advanced=False,
        ),
    ] = 2
    cache_capacity: Annotated[
        float,
        Knob(
            title=Text("Cache capacity", "缓存容量"),
            help=Text(
                "Device memory that caches may hold in each stage: conditions, then the step cache, then "
                "transformer blocks; or the VAE's features. What does not fit is moved from the host each time: "
                "less memory, more transfers.",
                "每个阶段缓存可占用的设备内存：先放条件，再放步缓存，再放 Transformer 块；或放 VAE 特征。"
                "放不下的每次从主机搬运：内存更少，传输更多。",
            ),
            unit="GiB",
            minimum=0,
            maximum=1024,
            step=0.25,
            advanced=False,
        ),
    ] = 16.0
    layout: Annotated[
        Layout,
        Knob(
            title=Text("Memory layout", "内存布局"),
            help=Text(
                "How the VAE keeps frames while it decodes. contiguous: whole videos as N,C,T,H,W and 3-D "
                "convolutions. chunked: one block per chunk, frame after frame, the temporal taps folded into one "
                "2-D convolution, no video-sized tensor on the device. interleaved: the same with channels "
                "innermost, as tensor cores want them in 16 bits.",
                "VAE 解码时如何存放帧。contiguous：整段视频按 N,C,T,H,W 存放，用三维卷积。"
                "chunked：每块一段连续内存，逐帧存放，时间方向的卷积折叠进一个二维卷积，设备上没有整段视频。"
                "interleaved：同上，但通道在最内层，适合张量核心的 16 位计算。",
            ),
            choices=get_args(Layout),
            advanced=False,
        ),
    ] = "chunked"
    token_chunk: Annotated[
        int,
        Knob(
            title=Text("Token chunk", "词元分块"),
            help=Text(
                "Video tokens per norm, projection, rotary, attention-query and feed-forward pass; 0 means all. "
                "Fewer tokens lower the denoising peak.",
                "归一化、投影、旋转编码、注意力查询和前馈每次处理的视频词元数；0 表示全部。越少，去噪峰值越低。",
            ),
            unit="tokens",
            choices=(0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
        ),
    ] = 4096
    precision: Annotated[
        Precision,
        Knob(
            title=Text("Precision", "精度"),
            help=Text(
                "Number format of weights and activations. auto: bfloat16 where the card computes it, float16 on "
                "older cards, float32 on a CPU.",
                "权重和激活的数值格式。auto：显卡支持则用 bfloat16，旧显卡用 float16，CPU 用 float32。",
            ),
            choices=get_args(Precision),
            lossless=False,
        ),
    ] = "auto"
    attention: Annotated[
        Attention,
        Knob(
            title=Text("Attention", "注意力"),
            help=Text(
                "diffusers attention backend. native is PyTorch's own choice; flash, sage and xformers need their "
                "package installed. sage is lossy.",
                "diffusers 的注意力后端。native 由 PyTorch 自行选择；"
                "flash、sage、xformers 需要安装相应的包。sage 有损。",
            ),
            choices=get_args(Attention),
            lossless=False,
        ),
    ] = "native"
    step_cache: Annotated[
        StepCaching,
        Knob(
            title=Text("Step cache", "步缓存"),
            help=Text(
                "first_block runs only the first transformer block in steps where it does nearly what it did "
                "before, and reuses what the others did then: faster, less like the full clip. Forecasts count "
                "every step as a whole one until a run has taught them.",
                "first_block：若第一个 Transformer 块所做与之前几乎相同，本步只运行它，其余块沿用上次的结果："
                "更快，但与完整计算的视频有差别。在有运行记录之前，预测把每一步都算作完整的。",
            ),
            choices=get_args(StepCaching),
            lossless=False,
        ),
    ] = "off"
    step_cache_threshold: Annotated[
        float,
        Knob(
            title=Text("Step cache threshold", "步缓存阈值"),
            help=Text(
                "Relative change of the first block below which the others are left out. 0 leaves none out; the "
                "higher, the faster and the less like the full clip.",
                "第一个块的相对变化低于此值时省去其余的块。0 表示从不省去；越高越快，与完整计算的视频差别也越大。",
            ),
            minimum=0,
            maximum=1,
            step=0.01,
            lossless=False,
        ),
    ] = 0.1
    prefetch: Annotated[
        int,
        Knob(
            title=Text("Prefetch", "预取"),
            help=Text(
                "Transformer blocks copied ahead of the one that computes, when not all are resident. Each one "
                "ahead takes one more block of device memory.",
                "权重未全部常驻时，提前搬运的 Transformer 块数。每多一块，多占一块的设备内存。",
            ),
            unit="blocks",
            minimum=0,
            maximum=8,
        ),
    ] = 1
    workers: Annotated[
        int,
        Knob(
            title=Text("Workers", "工作线程"),
            help=Text(
                "CPU threads that prepare input pictures and turn decoded frames into 8-bit pictures.",
                "准备输入图片、把解码帧转成 8 位图片的 CPU 线程数。",
            ),
            unit="threads",
            minimum=1,
            maximum=64,
        ),
    ] = 2
    text_projection: Annotated[
        TextProjection,
        Knob(
            title=Text("Text projection", "文本投影"),
            help=Text(
                "What blocks with one stream (the second half of every 7B model) do with text after attention. "
                "original projects it, as the model was trained; diffusers leaves it, as its own pipeline does.",
                "单流块（每个 7B 模型的后半部分）在注意力之后如何处理文本。original 做投影，与训练时一致；"
                "diffusers 不做投影，与 diffusers 自带管线一致。",
            ),
            choices=get_args(TextProjection),
            lossless=False,
        ),
    ] = "original"
    engine: Annotated[
        Engine,
        Knob(
            title=Text("Engine", "引擎"),
            help=Text(
                "tuned obeys the knobs. stock is the baseline: diffusers' own forwards, everything resident, both "
                "guidance branches in one batch; it obeys only precision, text_projection and workers.",
                "tuned 听从各旋钮。stock 是基线：diffusers 自带的前向，全部常驻，两个引导分支一批；"
                "其他旋钮中只听从精度、文本投影和工作线程。",
            ),
            choices=get_args(Engine),
        ),
    ] = "tuned"

    @model_validator(mode="after")
    def _within_range(self) -> Settings:
        for name, knob in KNOBS.items():
            knob.check(name, getattr(self, name))
        return self

    @property
    def cache_bytes(self) -> int:
        """``cache_capacity`` in bytes."""
        return int(self.cache_capacity * GIB)


def _knobs() -> dict[str, Knob]:
    found = {}
    for name, field in Settings.model_fields.items():
        found[name] = next(item for item in field.metadata if isinstance(item, Knob))
    return found


KNOBS: dict[str, Knob] = _knobs()
"""Every knob by its name, in the order of :class:`Settings`."""


def parse_knob(assignment: str) -> tuple[str, int | float | str]:
    """One ``knob=value`` of the command line as a name and a typed value.

    Raises:
        BadInput: No ``=``, an unknown knob, or text that is no number where one is needed.
    """
    name, separator, text = assignment.partition("=")
    name, text = name.strip(), text.strip()
    if not separator:
        raise BadInput("--set", assignment, "knob=value")
    if name not in KNOBS:
        raise BadInput(name, text, f"no such knob; one of {', '.join(KNOBS)}")
    annotation = Settings.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return name, text
    kind = int if annotation is int else float
    try:
        return name, kind(text)
    except ValueError:
        raise BadInput(name, text, KNOBS[name].allowed) from None
