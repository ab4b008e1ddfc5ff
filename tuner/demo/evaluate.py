"""How well the demo does: prompts and pictures it never saw, measured in the pixels it draws.

    python -m tuner.demo.evaluate assets/demo [--prompts 200] [--frames 49] [--sheet sheet.png] [--json]

prints a table. Half of the prompts are English, half Chinese, for the same scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tuner.demo.judge import Verdict, largest_jump, look, verdict
from tuner.demo.prompts import Prompt, plain_prompt, write_prompt
from tuner.demo.render import SIDE, render
from tuner.demo.scene import Scene, random_scene
from tuner.engine.generate import generate
from tuner.engine.vae import VaeRunner
from tuner.errors import TunerError
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.request import Request, open_picture
from tuner.settings import Settings

HELD_OUT = 2**40
"""Seeds of scenes from here on are never trained on."""

_LANGUAGES: tuple[Literal["en", "zh"], ...] = ("en", "zh")
_PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "assets" / "samples"
_VAE_FRAMES = 17
_NEAR = 0.06
_LARGEST_JUMP = 3.0
_LOSSLESS = Settings(chunk_size=1, batch_size=1, cache_capacity=0.0, layout="interleaved", token_chunk=256)
_LOSSY = Settings(text_projection="diffusers")
_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_FRAMES = 4, 6, 4


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

    what: str
    value: float
    bar: float
    unit: str
    lower: bool = False

    @property
    def met(self) -> bool:
        """Whether the bar is met."""
        return self.value <= self.bar if self.lower else self.value >= self.bar


def evaluate(
    components: Components,
    prompts: int = 200,
    frames: int = 49,
    steps: int = 12,
    guidance: float = 6.0,
    pictures: int = 20,
) -> list[Row]:
    """Measure a model.

    Args:
        components: The demo, or what was trained to be it.
        prompts: How many, in both languages together.
        frames: Of each clip; at least 25, so that every motion shows.
        steps: Denoising steps.
        guidance: Of the prompt.
        pictures: Clips with a start image, and clips through the VAE; a fifth as many to compare settings on.
    """
    asked = Request(
        width=SIDE, height=SIDE, frames=frames, fps=8, steps=steps, guidance=guidance, seed=HELD_OUT % 2**32
    )
    following, jumps = _follows(components, asked, prompts)
    rows = _reconstruction(components, pictures)
    bars = {"colour": 95.0, "shape": 85.0, "motion": 90.0, "background": 90.0}
    for part, bar in bars.items():
        shares = {language: _share(found, part) for language, found in following.items()}
        rows.append(Row(f"{part} as asked", fmean(shares.values()), bar, "%"))
        rows.append(Row(f"{part}: English less Chinese", abs(shares["en"] - shares["zh"]), 5.0, "points", True))
    smooth = 100 * fmean(jump <= _LARGEST_JUMP for jump in jumps)
    rows.append(Row(f"clips without a jump over {_LARGEST_JUMP:g} medians", smooth, 100.0, "%"))
    rows.append(Row("largest jump of half of the clips, in medians", median(jumps), _LARGEST_JUMP, "x", True))
    return [*rows, *_starts(components, asked, pictures), *_knobs(components, asked, max(1, pictures // 5))]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | measured | wanted | |", "|---|---|---|---|"]
    for row in rows:
        sign, met = ("at most" if row.lower else "at least"), ("yes" if row.met else "no")
        lines.append(f"| {row.what} | {row.value:.1f} {row.unit} | {sign} {row.bar:g} {row.unit} | {met} |")
    return "\n".join(lines)


def contact_sheet(components: Components, request: Request) -> Image.Image:
    """Four frames each of 24 clips of held-out plain prompts, side by side."""
    pictures = []
    for number in range(_SHEET_COLUMNS * _SHEET_ROWS):
        prompt = plain_prompt(random_scene(HELD_OUT + number), _LANGUAGES[number % 2])
        clip = _clip(components, request.replace(prompt=prompt, seed=number))
        places = torch.linspace(0, len(clip) - 1, _SHEET_FRAMES).round().long()
        pictures.append(torch.cat(list(clip[places]), dim=2))
    rows = [
        torch.cat(pictures[start : start + _SHEET_COLUMNS], dim=2)
        for start in range(0, len(pictures), _SHEET_COLUMNS)
    ]
    return Image.fromarray((torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0).numpy())


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Peak signal to noise in dB of pixels in 0..1."""
    return float(-10 * torch.log10((found - wanted).square().mean().clamp_min(1e-10)))


def _follows(
    components: Components, request: Request, prompts: int
) -> tuple[dict[str, list[Verdict]], list[float]]:
    """Verdicts by language, and how much each clip jumps."""
    found: dict[str, list[Verdict]] = {language: [] for language in _LANGUAGES}
    jumps = []
    for scene, prompt, language, seed in _asked(prompts):
        clip = _clip(components, request.replace(prompt=prompt.text, seed=seed))
        found[language].append(verdict(scene, look(clip), prompt.setting, prompt.style))
        jumps.append(largest_jump(clip))
    return found, jumps


def _asked(prompts: int) -> Iterator[tuple[Scene, Prompt, str, int]]:
    for number in range(prompts // 2):
        scene = random_scene(HELD_OUT + number)
        for language in _LANGUAGES:
            yield scene, write_prompt(scene, language, HELD_OUT + number), language, number


def _share(verdicts: Iterable[Verdict], part: str) -> float:
    return 100 * fmean(getattr(found, part) for found in verdicts)


def _reconstruction(components: Components, clips: int) -> list[Row]:
    world = (render(random_scene(HELD_OUT + number), _VAE_FRAMES) for number in range(clips))
    rows = [Row("VAE, clips of its world", fmean(_through_vae(components, clip) for clip in world), 30.0, "dB")]
    photographs = [open_picture("samples", file) for file in sorted(_PHOTOGRAPHS.glob("*.jpg"))]
    if photographs:
        cropped = [np.array(ImageOps.fit(picture, (SIDE, SIDE))) for picture in photographs]
        pixels = [torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 for picture in cropped]
        rows.append(Row("VAE, photographs", fmean(_through_vae(components, each) for each in pixels), 24.0, "dB"))
    return rows


def _through_vae(components: Components, clip: Tensor) -> float:
    return psnr(_back(components, clip), clip)


def _back(components: Components, clip: Tensor) -> Tensor:
    """``clip`` ``[T, 3, H, W]`` encoded and decoded."""
    runner = VaeRunner(components.vae, Settings(), components.device)
    video = (clip.transpose(0, 1)[None] * 2 - 1).to(components.device, components.dtype)
    chunks = [chunk.float().cpu().clone() for chunk in runner.decode(runner.encode(video))]
    return ((torch.cat(chunks, dim=2)[0].transpose(0, 1) + 1) / 2).clamp(0, 1)


def _starts(components: Components, request: Request, pictures: int) -> list[Row]:
    """How well clips keep a start image and go on from it."""
    kept, near, moving = [], [], []
    for number in range(pictures):
        scene = random_scene(HELD_OUT + 2**20 + number)
        first = render(scene, 1)
        picture = (first[0] * 255).round().byte().permute(1, 2, 0).numpy()
        prompt = plain_prompt(scene, "en")
        clip = _clip(components, request.replace(prompt=prompt, seed=number, start_image=picture))
        kept.append(psnr(clip[:1], _back(components, first)))
        began, seen = look(first.expand(3, -1, -1, -1)).things, look(clip)
        near.append(
            len(seen.things) == len(began)
            and all(min(abs(a.x[0] - b.x[0]) + abs(a.y[0] - b.y[0]) for b in seen.things) < _NEAR for a in began)
        )
        moving.append(verdict(scene, seen).motion)
    return [
        Row("first frame against the start image", fmean(kept), 28.0, "dB"),
        Row("objects go on from where they are", 100 * fmean(near), 90.0, "%"),
        Row("motion as asked from a start image", 100 * fmean(moving), 90.0, "%"),
    ]


def _knobs(components: Components, request: Request, clips: int) -> list[Row]:
    """How near clips made with other settings are to those made with the default ones."""
    found: dict[str, list[float]] = {"lossless": [], "lossy": []}
    for number in range(clips):
        asked = request.replace(prompt=plain_prompt(random_scene(HELD_OUT + number), "en"), seed=number)
        wanted = _clip(components, asked)
        for kind, settings in (("lossless", _LOSSLESS), ("lossy", _LOSSY)):
            found[kind].append(psnr(_clip(components, asked, settings), wanted))
    return [
        Row("lossless knobs pushed, against the default", fmean(found["lossless"]), 60.0, "dB"),
        Row("text_projection=diffusers, against the default", fmean(found["lossy"]), 40.0, "dB", True),
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
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--device", default=None)
    parser.add_argument("--sheet", type=Path, help="also write a picture of 24 clips")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    given = parser.parse_args(arguments)
    try:
        components = load_model(given.model, device=given.device)
        rows = evaluate(components, given.prompts, given.frames, given.steps, given.guidance)
        print(table(rows))
        if given.sheet:
            request = Request(
                width=SIDE, height=SIDE, frames=given.frames, steps=given.steps, guidance=given.guidance
            )
            contact_sheet(components, request).save(given.sheet)
    except TunerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps({row.what: {"value": row.value, "bar": row.bar, "met": row.met} for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
