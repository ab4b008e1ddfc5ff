"""How well the demo does: prompts and pictures it never saw, measured in the pixels it draws.

    python -m tuner.demo.evaluate assets/demo [--prompts 200] [--frames 49] [--out assets/demo/evaluation.json]

prints a table; with ``--out`` the figures go into a file, and beside it a picture of 24 scenes. Half of the
prompts are English, half Chinese, for the same scenes. Clips are made as the demo's preset would make them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from tuner.bench.files import check_place, write_result
from tuner.bench.machine import these_versions, this_machine, today
from tuner.demo.judge import Verdict, largest_jump, look, verdict
from tuner.demo.prompts import LANGUAGES, Language, plain_prompt, write_prompt
from tuner.demo.render import SIDE, render
from tuner.demo.scene import random_scene
from tuner.engine.generate import generate
from tuner.engine.vae import VaeRunner
from tuner.errors import TunerError
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.presets import SHIPPED, read_preset
from tuner.request import Request, open_picture
from tuner.settings import Settings, Text

HELD_OUT = 2**40
"""Seeds of scenes from here on are never trained on."""

_PRESET = SHIPPED / "demo-cpu.toml"
_PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "assets" / "samples"
_VAE_FRAMES = 17
_NEAR = 0.06
_LARGEST_JUMP = 3.0
_LONGEST_SECONDS = 30.0
_LOSSLESS = Settings(chunk_size=1, batch_size=1, cache_capacity=0.0, layout="interleaved", token_chunk=256)
_LOSSY = Settings(step_cache="first_block", step_cache_threshold=0.5)
_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_FRAMES = 4, 6, 4
_HEADER = Text("| what | measured | wanted | |", "| 项目 | 实测 | 要求 | |")
_SMOOTH = Text(
    f"clips without a jump over {_LARGEST_JUMP:g} medians", f"跳变均不超过中位数 {_LARGEST_JUMP:g} 倍的视频"
)
_LEAST, _MOST = Text("at least", "不低于"), Text("at most", "不高于")
_YES, _NO = Text("yes", "达到"), Text("no", "未达到")
_PARTS = {
    "colour": (Text("colour as asked", "颜色符合提示词"), 95.0),
    "shape": (Text("shape as asked", "形状符合提示词"), 85.0),
    "motion": (Text("motion as asked", "运动符合提示词"), 90.0),
    "background": (Text("background as asked", "背景符合提示词"), 90.0),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is measured.
        value: The figure.
        bar: What it should be at least; at most, where ``lower``.
        unit: Of both.
        lower: Whether less is better.
    """

    what: Text
    value: float
    bar: float
    unit: str
    lower: bool = False

    @property
    def met(self) -> bool:
        """Whether the bar is met."""
        return self.value <= self.bar if self.lower else self.value >= self.bar

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON has it, rounded to what is known of it."""
        value = round(self.value, 2)
        return {
            "what": self.what.en,
            "what_zh": self.what.zh,
            "value": value,
            "bar": self.bar,
            "unit": self.unit,
            "lower": self.lower,
            "met": self.met,
        }


class Shown(NamedTuple):
    """A clip for the contact sheet: what was asked, and float ``[4, 3, H, W]`` in 0..1 of its frames."""

    prompt: str
    frames: Tensor


class Evaluation(NamedTuple):
    """What was measured, and the first clips of it."""

    rows: list[Row]
    shown: list[Shown]


def evaluate(components: Components, asked: Request, prompts: int = 200, pictures: int = 20) -> Evaluation:
    """Measure a model.

    Args:
        components: The demo, or what was trained to be it.
        asked: How long and with how many steps its clips are made; at least 25 frames, so that every motion shows.
        prompts: How many, in both languages together.
        pictures: Clips with a start image, and clips through the VAE; a fifth as many to compare settings on.
    """
    asked = asked.replace(width=SIDE, height=SIDE, seed=HELD_OUT % 2**32)
    shots = list(_shots(components, asked, prompts))
    rows = _reconstruction(components, pictures)
    for part, (what, bar) in _PARTS.items():
        shares = {
            language: _percent(getattr(shot.verdict, part) for shot in shots if shot.language == language)
            for language in LANGUAGES
        }
        rows.append(Row(what, fmean(shares.values()), bar, "%"))
        both = Text(f"{what.en}: between English and Chinese", f"{what.zh}：英文与中文之差")
        rows.append(Row(both, abs(shares["en"] - shares["zh"]), 5.0, "points", lower=True))
    rows.append(Row(_SMOOTH, _percent(shot.jump <= _LARGEST_JUMP for shot in shots), 100.0, "%"))
    rows += _starts(components, asked, pictures)
    rows += _knobs(components, asked, max(1, pictures // 5))
    seconds = median(shot.seconds for shot in shots)
    rows.append(Row(Text("a clip takes", "生成一段视频用时"), seconds, _LONGEST_SECONDS, "s", lower=True))
    # Every scene was asked for in each language; the sheet has it in one, in turn.
    languages = len(LANGUAGES)
    once = [shot for place, shot in enumerate(shots) if shot.language == LANGUAGES[place // languages % languages]]
    return Evaluation(rows, [shot.shown for shot in once[: _SHEET_COLUMNS * _SHEET_ROWS]])


def table(rows: Sequence[Mapping[str, Any]], language: str = "en") -> str:
    """The rows of :meth:`Row.as_dict` as a Markdown table."""

    def said(text: Text) -> str:
        return text.zh if language == "zh" else text.en

    lines = [said(_HEADER), "| --- | --- | --- | --- |"]
    for row in rows:
        what = row["what_zh"] if language == "zh" else row["what"]
        side, met = _MOST if row["lower"] else _LEAST, _YES if row["met"] else _NO
        measured, wanted = (f"{row[name]:.4g} {row['unit']}" for name in ("value", "bar"))
        lines.append(f"| {what} | {measured} | {said(side)} {wanted} | {said(met)} |")
    return "\n".join(lines) + "\n"


def contact_sheet(shown: Sequence[Shown]) -> Image.Image:
    """Four frames each of the first clips, side by side."""
    strips = [torch.cat(list(clip.frames), dim=2) for clip in shown]
    blank = torch.ones_like(strips[0])
    strips += [blank] * (-len(strips) % _SHEET_COLUMNS)
    rows = [
        torch.cat(strips[start : start + _SHEET_COLUMNS], dim=2) for start in range(0, len(strips), _SHEET_COLUMNS)
    ]
    return Image.fromarray((torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0).numpy())


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise in dB of pixels in 0..1."""
    return float(-10 * torch.log10((found - wanted).square().mean().clamp_min(1e-10)))


class _Shot(NamedTuple):
    """One clip as it was judged."""

    language: str
    verdict: Verdict
    jump: float
    seconds: float
    shown: Shown


def _shots(components: Components, asked: Request, prompts: int) -> Iterator[_Shot]:
    """The world's scenes as people would ask for them, generated and looked at."""
    questions: list[tuple[int, Language]] = [
        (number, language) for number in range(-(-prompts // 2)) for language in LANGUAGES
    ]
    for number, language in tqdm(questions[:prompts], desc="prompts", unit="clip", disable=None):
        scene = random_scene(HELD_OUT + number)
        prompt = write_prompt(scene, language, HELD_OUT + number)
        began = time.perf_counter()
        clip = _clip(components, asked.replace(prompt=prompt.text, seed=number))
        seconds = time.perf_counter() - began
        judged = verdict(scene, look(clip), prompt.setting, prompt.style)
        places = torch.linspace(0, len(clip) - 1, _SHEET_FRAMES).round().long()
        yield _Shot(language, judged, largest_jump(clip), seconds, Shown(prompt.text, clip[places]))


def _percent(right: Iterable[bool]) -> float:
    found = list(right)
    return 100 * fmean(found) if found else 0.0


def _reconstruction(components: Components, clips: int) -> list[Row]:
    world = (render(random_scene(HELD_OUT + number), _VAE_FRAMES) for number in range(clips))
    seen, strange = Text("VAE, clips of its world", "VAE，演示世界的视频"), Text("VAE, photographs", "VAE，照片")
    rows = [Row(seen, fmean(_through_vae(components, clip) for clip in world), 30.0, "dB")]
    photographs = [_pixels(picture) for picture in _photographs()]
    if photographs:
        rows.append(Row(strange, fmean(_through_vae(components, each) for each in photographs), 24.0, "dB"))
    return rows


def _photographs() -> list[np.ndarray]:
    """uint8 ``[128, 128, 3]`` each: the samples that ship with the page, cropped."""
    pictures = [open_picture("samples", file) for file in sorted(_PHOTOGRAPHS.glob("*.jpg"))]
    return [np.array(ImageOps.fit(picture, (SIDE, SIDE))) for picture in pictures]


def _pixels(picture: np.ndarray) -> Tensor:
    """``[1, 3, H, W]`` in 0..1."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


def _through_vae(components: Components, clip: Tensor) -> float:
    return psnr(_back(components, clip), clip)


def _back(components: Components, clip: Tensor) -> Tensor:
    """``clip`` ``[T, 3, H, W]`` encoded and decoded."""
    runner = VaeRunner(components.vae, Settings(), components.device)
    video = (clip.transpose(0, 1)[None] * 2 - 1).to(components.device, components.dtype)
    chunks = [chunk.float().cpu().clone() for chunk in runner.decode(runner.encode(video))]
    return ((torch.cat(chunks, dim=2)[0].transpose(0, 1) + 1) / 2).clamp(0, 1)


def _starts(components: Components, asked: Request, pictures: int) -> list[Row]:
    """How well clips keep a start image, of the world or not, and go on from it."""
    kept, near, moving = [], [], []
    for number in tqdm(range(pictures), desc="start images", unit="clip", disable=None):
        scene = random_scene(HELD_OUT + 2**20 + number)
        first = render(scene, 1)
        picture = (first[0] * 255).round().byte().permute(1, 2, 0).numpy()
        clip = _clip(components, asked.replace(prompt=plain_prompt(scene, "en"), seed=number, start_image=picture))
        kept.append(psnr(clip[:1], _back(components, first)))
        began, seen = look(first.expand(3, -1, -1, -1)).things, look(clip)
        near.append(
            len(seen.things) == len(began)
            and all(min(abs(a.x[0] - b.x[0]) + abs(a.y[0] - b.y[0]) for b in seen.things) < _NEAR for a in began)
        )
        moving.append(verdict(scene, seen).motion)
    rows = [
        Row(Text("first frame against the start image", "首帧与起始图"), fmean(kept), 28.0, "dB"),
        Row(Text("objects go on from where they are", "物体从原位置继续"), _percent(near), 90.0, "%"),
        Row(Text("motion as asked from a start image", "带起始图时运动符合提示词"), _percent(moving), 90.0, "%"),
    ]
    prompt = plain_prompt(random_scene(HELD_OUT), "en")
    strange = []
    for picture in _photographs()[: max(1, pictures // 5)]:
        clip = _clip(components, asked.replace(prompt=prompt, start_image=picture))
        strange.append(psnr(clip[:1], _back(components, _pixels(picture))))
    if strange:
        what = Text("first frame against a photograph as start image", "首帧与作为起始图的照片")
        rows.insert(1, Row(what, fmean(strange), 28.0, "dB"))
    return rows


def _knobs(components: Components, asked: Request, clips: int) -> list[Row]:
    """How near clips made with other settings are to those made with the default ones."""
    found: dict[str, list[float]] = {"lossless": [], "lossy": []}
    for number in range(clips):
        request = asked.replace(prompt=plain_prompt(random_scene(HELD_OUT + number), "en"), seed=number)
        wanted = _clip(components, request)
        for kind, settings in (("lossless", _LOSSLESS), ("lossy", _LOSSY)):
            found[kind].append(psnr(_clip(components, request, settings), wanted))
    same = Text("lossless knobs pushed, against the default", "改动无损旋钮后与默认设置相比")
    threshold = f"step_cache_threshold={_LOSSY.step_cache_threshold:g}"
    other = Text(f"{threshold}, against the default", f"{threshold} 与默认设置相比")
    return [
        Row(same, fmean(found["lossless"]), 60.0, "dB"),
        Row(other, fmean(found["lossy"]), 40.0, "dB", lower=True),
    ]


def _clip(components: Components, request: Request, settings: Settings | None = None) -> Tensor:
    """``[T, 3, H, W]`` in 0..1."""
    frames = generate(request, settings or Settings(), components, return_frames=True).frames
    assert frames is not None
    return frames[0].permute(0, 3, 1, 2).float()


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description="Measure how well the demo follows prompts.")
    parser.add_argument("model", help="a checkpoint folder, or demo")
    parser.add_argument("--prompts", type=int, default=200)
    usual = read_preset(_PRESET).request
    parser.add_argument("--frames", type=int, default=usual.frames)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--guidance", type=float, default=usual.guidance)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--out", type=Path, help="also write the figures to this .json file, and pictures beside it"
    )
    given = parser.parse_args(arguments)
    try:
        check_place(given.out)
        request = Request(frames=given.frames, fps=8, steps=given.steps, guidance=given.guidance)
        components = load_model(given.model, device=given.device)
        rows, shown = evaluate(components, request, given.prompts, given.pictures)
        kept = [row.as_dict() for row in rows]
        print(table(kept), end="")
        if given.out:
            result = {
                "prompts": given.prompts,
                **request.model_dump(include={"frames", "steps", "guidance"}),
                "machine": this_machine(components.device),
                "versions": these_versions(),
                "date": today(),
                "rows": kept,
                "sheet": [clip.prompt for clip in shown],
            }
            write_result(given.out, result)
            contact_sheet(shown).save(given.out.with_name("sheet.webp"), quality=85)
    except TunerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
