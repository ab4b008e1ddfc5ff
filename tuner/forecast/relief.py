"""What to change when a clip does not fit a card: one knob as little as will do, or the clip's size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from tuner.forecast.forecast import Forecast
from tuner.hardware import find_card
from tuner.pressure import Changes, next_smaller
from tuner.request import Request
from tuner.settings import GIB, KNOBS, Settings

PUBLISHED_SIZES = ((768, 1344), (1024, 1024), (576, 1008), (384, 672))
"""Height and width of the clips that EasyAnimate's own table names."""

_LOWERS: Mapping[str, set[str]] = {
    "chunk_size": {"encode image", "decode"},
    "batch_size": {"denoise"},
    "token_chunk": {"denoise"},
}
"""What a knob can lower; ``cache_capacity`` lowers every stage."""

_CAPACITY_STEP_GIB = 0.25
_MOST_TRIES = 12


class Ask(Protocol):
    """Forecasts for one model and card."""

    def __call__(self, request: Request, settings: Settings) -> Forecast:
        """What making ``request`` with ``settings`` will cost."""
        ...


def relief(ask: Ask, request: Request, settings: Settings) -> tuple[Changes, Forecast] | None:
    """The smallest change of knobs that makes ``request`` fit, and what it will cost then.

    One knob is tried alone, each as little as will do; of those that help, the one that costs the least time is
    taken. Where none does, the knobs are lowered one after the other as an out-of-memory error would suggest.

    Args:
        ask: Forecasts for the model and the card.
        request: What is to be made.
        settings: The knobs as they are.

    Returns:
        No changes when it fits as it is; None when no setting helps.
    """
    now = ask(request, settings)
    if now.fits:
        return {}, now
    if settings.engine == "stock":
        ladders: list[list[Changes]] = [[{"engine": "tuned"}]]
    else:
        names = [name for name, stages in _LOWERS.items() if _too_large(now) <= stages]
        ladders = [*(_lower(name, request, settings) for name in names), _less_cache(settings, now)]
    helping = [found for ladder in ladders if (found := _highest_that_fits(ask, request, settings, ladder))]
    if helping:
        return min(helping, key=lambda found: found[1].seconds)
    return _one_after_the_other(ask, request, settings, now)


def smaller_clip(ask: Ask, request: Request, settings: Settings) -> tuple[Changes, Forecast] | None:
    """The largest smaller clip of a published size that fits with ``settings``; None when there is none.

    Args:
        ask: Forecasts for the model and the card.
        request: What is to be made; the clip keeps its orientation.
        settings: The knobs as they are.
    """
    upright = request.height > request.width
    for short, long in PUBLISHED_SIZES:
        if short * long >= request.width * request.height:
            continue
        width, height = (short, long) if upright else (long, short)
        forecast = ask(request.replace(width=width, height=height), settings)
        if forecast.fits:
            return {"width": width, "height": height}, forecast
    return None


def _too_large(now: Forecast) -> set[str]:
    """The stages that do not fit by themselves; empty where only what the allocator loses makes the difference."""
    usable = find_card(now.gpu).usable_bytes
    return {stage.name for stage in now.stages if usable is not None and stage.peak_allocated_bytes > usable}


def _highest_that_fits(
    ask: Ask, request: Request, settings: Settings, ladder: list[Changes]
) -> tuple[Changes, Forecast] | None:
    """The highest rung of ``ladder`` that fits; each rung needs less than the one before."""
    if not ladder:
        return None
    found = ladder[-1], ask(request, settings.replace(**ladder[-1]))
    if not found[1].fits:
        return None
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        forecast = ask(request, settings.replace(**ladder[middle]))
        if forecast.fits:
            found, high = (ladder[middle], forecast), middle
        else:
            low = middle + 1
    return found


def _lower(name: str, request: Request, settings: Settings) -> list[Changes]:
    """Every smaller value of a knob, the largest first."""
    value = getattr(settings, name)
    if name == "batch_size":
        samples = request.num_clips * (2 if request.guidance > 1 else 1)
        return [{name: size} for size in range(min(value, samples) - 1, 0, -1)]
    choices = [choice for choice in KNOBS[name].choices if isinstance(choice, int) and choice]
    return [{name: choice} for choice in sorted(choices, reverse=True) if choice < (value or math.inf)]


def _less_cache(settings: Settings, now: Forecast) -> list[Changes]:
    """Every smaller capacity; more than was held is none of them."""
    held = min(settings.cache_bytes, now.peak_allocated_bytes)
    steps = math.ceil(held / GIB / _CAPACITY_STEP_GIB)
    return [{"cache_capacity": step * _CAPACITY_STEP_GIB} for step in reversed(range(steps))]


def _one_after_the_other(
    ask: Ask, request: Request, settings: Settings, now: Forecast
) -> tuple[Changes, Forecast] | None:
    changes: Changes = {}
    for _ in range(_MOST_TRIES):
        stage = max(now.stages, key=lambda stage: stage.peak_allocated_bytes).name
        more = next_smaller(stage, settings, request)
        if not more:
            return None
        changes |= more
        settings = settings.replace(**more)
        now = ask(request, settings)
        if now.fits:
            return changes, now
    return None
