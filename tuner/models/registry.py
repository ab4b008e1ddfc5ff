"""The models a person can name, and where they are. Knows no torch, so that lists come at once."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from platformdirs import user_data_path

from tuner.errors import BadInput
from tuner.models.family import Family, family_of, is_whole, model_parts
from tuner.models.files import MODEL_INDEX
from tuner.models.headers import read_header
from tuner.request import MAX_FRAMES
from tuner.settings import Text

_DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
_DEMO_TITLE = Text("Demo (tiny, runs on any computer)", "演示（微型，任何电脑可运行）")
_BILLION = 10**9


@dataclass(frozen=True)
class Download:
    """A repository on the Hugging Face hub.

    Attributes:
        repository: Its publisher and name.
        gigabytes: What its files take, about.
    """

    repository: str
    gigabytes: int


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without loading it.

    Attributes:
        name: What ``--model`` takes.
        title: Its name on the page.
        path: Its folder; None when it is not installed.
        width: Default pixels.
        height: Default pixels.
        frames: Default video frames.
        steps: Default denoising steps.
        fps: Default frames per second.
        parameters: Parameters of the transformer.
        cache_bytes: Bytes of all transformer blocks at the default precision; ``cache_capacity`` can use no more.
        max_frames: Most video frames one clip can have.
        family: Which EasyAnimate it is.
        download: Where it can be had from; None for the demo and for folders.
    """

    name: str
    title: Text
    path: Path | None
    width: int
    height: int
    frames: int
    steps: int
    fps: int
    parameters: int
    cache_bytes: int
    max_frames: int = MAX_FRAMES
    family: Family = "v5"
    download: Download | None = None

    def folder(self) -> Path:
        """``path``, for who needs the files.

        Raises:
            BadInput: The model is not installed; the message says what to put where.
        """
        if self.path is None:
            raise self.absent(f"or download it: tuner models download {self.name}")
        return self.path

    def absent(self, otherwise: str) -> BadInput:
        """What to raise where the model is not on this machine: which files, how large, and where they go."""
        files = ", ".join([MODEL_INDEX, *(f"{part}/" for part in model_parts(self.family))])
        source = f"of {self.download.repository}, about {self.download.gigabytes} GB" if self.download else "of it"
        place = f"{models_dir() / self.name} (or where TUNER_MODELS says)"
        allowed = f"an installed model; put {files} ({source}) into {place}; {otherwise}"
        return BadInput("model", self.name, allowed)


@dataclass(frozen=True)
class _Known:
    """A published model: the folder name it is published under, its size there, and its transformer's sizes."""

    title: Text
    published: str
    gigabytes: int
    family: Family
    parameters: int
    block_parameters: int


_MMDIT_BLOCK, _SINGLE_BLOCK = 245_471_744, 132_197_632
_BLOCKS_7B, _BLOCKS_12B = 18 * _MMDIT_BLOCK + 18 * _SINGLE_BLOCK, 48 * _MMDIT_BLOCK
_PUBLISHER = "alibaba-pai"


def _published(family: Family, size: str, gigabytes: int, parameters: int, block_parameters: int) -> _Known:
    name = f"EasyAnimate{family.upper()}"
    return _Known(
        title=Text(f"{name} {size.upper()} InP", f"{name} {size.upper()} 图生视频"),
        published=f"{name}-{size}-zh-InP",
        gigabytes=gigabytes,
        family=family,
        parameters=parameters,
        block_parameters=block_parameters,
    )


_KNOWN = {
    "easyanimate-v5-7b-inp": _published("v5", "7b", 22, 6_813_097_536, _BLOCKS_7B),
    "easyanimate-v5-12b-inp": _published("v5", "12b", 34, 11_797_692_480, _BLOCKS_12B),
    "easyanimate-v5.1-7b-inp": _published("v5.1", "7b", 30, 6_814_670_912, _BLOCKS_7B),
    "easyanimate-v5.1-12b-inp": _published("v5.1", "12b", 39, 11_799_265_856, _BLOCKS_12B),
}


def models_dir() -> Path:
    """Where model folders are looked for: TUNER_MODELS, else this user's data directory."""
    place = os.environ.get("TUNER_MODELS")
    return Path(place).expanduser() if place else user_data_path("easyanimate-tuner") / "models"


def list_models() -> list[ModelInfo]:
    """Every model with a name, the demo first; one that is not installed has no path."""
    demo = _from_folder("demo", _DEMO_TITLE, _installed(_DEMO, models_dir() / "demo"))
    return [demo, *(_known(name, known) for name, known in _KNOWN.items())]


def find_model(name_or_path: str | Path) -> ModelInfo:
    """The model of that name, or the one in that folder.

    Raises:
        BadInput: There is neither; the message offers the closest names.
    """
    models = {info.name: info for info in list_models()}
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    path = _folder(name_or_path)
    if path is not None and _is_checkpoint(path):
        return _from_folder(path.name, Text(path.name, path.name), path)
    if path is not None:
        raise BadInput("model", path, "a checkpoint folder, one with a model_index.json")
    close = difflib.get_close_matches(str(name_or_path), models, n=3, cutoff=0.4) or list(models)
    raise BadInput("model", str(name_or_path), f"{' or '.join(close)}, or the path of a checkpoint folder")


def _folder(name_or_path: str | Path) -> Path | None:
    """That folder, if it is one."""
    try:
        path = Path(name_or_path).expanduser().resolve()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no path at all: too long, an unknown ~user, a null byte
        return None


def _is_checkpoint(path: Path) -> bool:
    return (path / MODEL_INDEX).is_file()


def _installed(*places: Path) -> Path | None:
    return next(filter(_is_checkpoint, places), None)


def _known(name: str, known: _Known) -> ModelInfo:
    repository = f"{_PUBLISHER}/{known.published}"
    path = _installed(models_dir() / name, models_dir() / known.published) or _cached(repository)
    return replace(
        _info(name, known.title, path, known.parameters, known.block_parameters),
        family=known.family,
        download=Download(repository, known.gigabytes),
    )


def _cached(repository: str) -> Path | None:
    """The newest snapshot in the Hugging Face cache, if every weight file of it is there."""
    for name in (repository, f"{repository}-diffusers"):
        index = try_to_load_from_cache(name, MODEL_INDEX)
        if isinstance(index, str) and is_whole(Path(index).parent):
            return Path(index).parent
    return None


def _from_folder(name: str, title: Text, path: Path | None) -> ModelInfo:
    files = sorted((path / "transformer").glob("*.safetensors")) if path else []
    counts = [_count(file) for file in files]
    info = _info(name, title, path, sum(every for every, _ in counts), sum(blocks for _, blocks in counts))
    try:
        return replace(info, family=family_of(path)) if path else info
    except BadInput:
        return info  # loading names what is wrong with it


def _info(name: str, title: Text, path: Path | None, parameters: int, block_parameters: int) -> ModelInfo:
    """Sizes and precision by scale: what is made for a card runs in 16 bits, what is tiny runs on a CPU in 32."""
    if parameters >= _BILLION:
        width, height, steps, parameter_bytes = 672, 384, 25, 2
    else:
        width, height, steps, parameter_bytes = 128, 128, 12, 4
    return ModelInfo(
        name=name,
        title=title,
        path=path,
        width=width,
        height=height,
        frames=MAX_FRAMES,
        steps=steps,
        fps=8,
        parameters=parameters,
        cache_bytes=block_parameters * parameter_bytes,
    )


def _count(file: Path) -> tuple[int, int]:
    """Parameters of a safetensors file, and how many of them are in transformer blocks, from its header."""
    try:
        entries = read_header(file).entries
    except BadInput:
        return 0, 0  # loading names what is wrong with it
    blocks = (entry.numel for name, entry in entries.items() if name.startswith("transformer_blocks."))
    return sum(entry.numel for entry in entries.values()), sum(blocks)
