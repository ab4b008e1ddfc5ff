"""What fits where: every published size on cards of several memories, stock and tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.forecast.forecast import Forecast, Forecaster
from tuner.hardware import MIB
from tuner.request import Request
from tuner.settings import GIB, Settings

SIZES = (
    *((672, 384, 25), (672, 384, 49), (1008, 576, 25), (1008, 576, 49)),
    *((1344, 768, 25), (1344, 768, 49), (1024, 1024, 49)),
)
"""Width, height, frames: those of the models' own published table, and one more."""

CARDS = {
    8: "rtx4060ti-16gb",
    12: "rtx3060-12gb",
    16: "rtx4060ti-16gb",
    24: "a10",
    40: "a100-40gb",
    80: "a100-80gb",
}
"""For each memory in GB, the card whose speed is shown; a card that has more is taken as if it had so much."""

_STEPS = 25
_RESERVED_BY_DRIVER = 420 * MIB
_FROM_FAST_TO_SMALL = (
    Settings(),
    Settings(chunk_size=2, cache_capacity=8.0),
    Settings(chunk_size=2, batch_size=1, cache_capacity=4.0),
    Settings(chunk_size=1, batch_size=1, cache_capacity=1.0),
    Settings(chunk_size=1, batch_size=1, cache_capacity=0.0, token_chunk=2048),
)


PUBLISHED = {
    "easyanimate-v5-7b-inp": {16: "QQXXXX", 24: "MMMQQX", 40: "MMMMMM", 80: "MMMMMM"},
    "easyanimate-v5-12b-inp": {16: "QQXXXX", 24: "QQQQQX", 40: "MMMMMM", 80: "MMMMMM"},
    "easyanimate-v5.1-7b-inp": {16: "QQSSXX", 24: "MMMQQX", 40: "MMMMMM", 80: "MMMMMM"},
    "easyanimate-v5.1-12b-inp": {16: "QSSSXX", 24: "QQQQQX", 40: "MMMMMM", 80: "MMMMMM"},
}
"""What EasyAnimate's own tables say for the first six of :data:`SIZES`, by memory: M runs with models moved to the
card one after the other, Q so and in 8 bits, S layer by layer, X not at all."""


@dataclass(frozen=True)
class Cell:
    """One size on one memory.

    Attributes:
        size: Width, height, frames.
        memory: GB of the card.
        stock_seconds: Of diffusers' own forwards with everything resident; None when they do not fit.
        tuned_seconds: With the fastest of a few settings that fits; None when none does.
    """

    size: tuple[int, int, int]
    memory: int
    stock_seconds: float | None
    tuned_seconds: float | None


def cells(model: str, forecaster: Forecaster) -> list[Cell]:
    """Every size and memory of one model, size by size."""
    return [cell(model, size, memory, forecaster) for size in SIZES for memory in CARDS]


def cell(model: str, size: tuple[int, int, int], memory: int, forecaster: Forecaster) -> Cell:
    """One size of one model on one memory."""
    width, height, frames = size
    request = Request(width=width, height=height, frames=frames, steps=_STEPS, start_image="any")
    stock = _first_that_fits(forecaster, request, model, memory, [Settings(engine="stock")])
    tuned = _first_that_fits(forecaster, request, model, memory, _FROM_FAST_TO_SMALL)
    return Cell(size, memory, *(forecast.seconds if forecast else None for forecast in (stock, tuned)))


def published(model: str, size: tuple[int, int, int], memory: int) -> str:
    """What EasyAnimate's own table says; a dash where it says nothing."""
    said = PUBLISHED.get(model, {}).get(memory, "")
    place = SIZES.index(size)
    return said[place] if place < len(said) else "–"


def _first_that_fits(
    forecaster: Forecaster, request: Request, model: str, memory: int, settings: Sequence[Settings]
) -> Forecast | None:
    for knobs in settings:
        forecast = forecaster.forecast(
            request, knobs, model=model, gpu=CARDS[memory], memory_bytes=memory * GIB - _RESERVED_BY_DRIVER
        )
        if forecast.fits:
            return forecast
    return None


def markdown(model: str, found: Sequence[Cell], beside_published: bool = False) -> str:
    """One model's cells as a table: minutes stock / tuned, a cross where it does not fit.

    Args:
        model: Its name.
        found: From :func:`cells`.
        beside_published: Begin each cell with what EasyAnimate's own table says.
    """
    lines = [
        f"| {model} | {' | '.join(f'{memory} GB' for memory in CARDS)} |",
        f"| --- |{' --- |' * len(CARDS)}",
    ]
    for size in SIZES:
        width, height, frames = size
        texts = [
            (f"{published(model, size, cell.memory)} · " if beside_published else "")
            + f"{_minutes(cell.stock_seconds)} / {_minutes(cell.tuned_seconds)}"
            for cell in found
            if cell.size == size
        ]
        lines.append(f"| {height}x{width}x{frames} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _minutes(seconds: float | None) -> str:
    return "✗" if seconds is None else f"{seconds / 60:.1f}"
