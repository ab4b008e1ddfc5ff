"""The presets that come with the project: for each published size, the fastest settings that fit each memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuner.forecast.fit import fastest_that_fits
from tuner.forecast.forecast import Forecaster
from tuner.forecast.table import CARDS, SIZES
from tuner.hardware import MIB, find_card
from tuner.presets import Preset, PresetRequest, dump_preset
from tuner.request import Request
from tuner.settings import GIB

MODEL = "easyanimate-v5-7b-inp"
MEMORIES = (8, 12, 16, 24)

Size = tuple[int, int, int]

_STEPS, _FPS, _GUIDANCE = 25, 8, 6.0
_NAME = "EasyAnimateV5-7b on {memory} GB, {height}x{width}, {frames} frames"
_HEADER = """\
# Made by `tuner forecast presets`: the fastest lossless settings that fit {memory} GB, from a start image.
# Forecast, not yet measured on a GPU: {reserved:.2f} GiB reserved at the peak, {seconds:.0f} s on {card}.

"""


def file_name(size: Size, memory: int) -> str:
    """Of the preset for a size and a memory in GB."""
    width, height, frames = size
    return f"easyanimate-v5-7b-{memory}gb-{height}x{width}x{frames}.toml"


def preset_text(size: Size, memory: int, forecaster: Forecaster) -> str:
    """The preset for a size and a memory in GB, looked for now."""
    width, height, frames = size
    card = find_card(CARDS[memory])
    # A card has less than the number it is sold by; one that has more is taken as if it had so much.
    total = min(card.memory_bytes or 0, memory * GIB - 420 * MIB)
    request = Request(width=width, height=height, frames=frames, steps=_STEPS, start_image="any")
    found = fastest_that_fits(request, model=MODEL, gpu=card.name, memory_bytes=total, forecaster=forecaster)
    preset = Preset(
        name=_NAME.format(memory=memory, height=height, width=width, frames=frames),
        model=MODEL,
        gpu=card.name,
        settings=found.settings,
        request=PresetRequest(
            width=width, height=height, frames=frames, fps=_FPS, steps=_STEPS, guidance=_GUIDANCE
        ),
    )
    header = _HEADER.format(
        memory=memory,
        reserved=found.forecast.peak_reserved_bytes / GIB,
        seconds=found.forecast.seconds,
        card=card.title,
    )
    return header + dump_preset(preset)


def write_presets(folder: Path, forecaster: Forecaster) -> Iterator[Path]:
    """Write every preset into ``folder``, giving each file when it is there."""
    for size in SIZES:
        for memory in MEMORIES:
            file = folder / file_name(size, memory)
            file.write_text(preset_text(size, memory, forecaster), encoding="utf-8", newline="\n")
            yield file
