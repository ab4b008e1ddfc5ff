"""The fastest settings that fit a memory: a short search over forecasts, all lossless."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import BadInput
from tuner.forecast.forecast import Forecast, Forecaster
from tuner.hardware import find_card
from tuner.models.registry import find_model
from tuner.request import Request
from tuner.settings import GIB, Settings

MARGIN = 0.05
"""Part of the memory that a search leaves free: a forecast may be that far off."""

_FROM_FAST_TO_SMALL = ((4, 2), (2, 2), (1, 2), (1, 1))
"""``chunk_size`` and ``batch_size``."""

_TRIES = 3
_WORTH_GIB = 0.5
_SMALLEST_TOKENS = 1024
_CAPACITY_STEP_GIB = 0.25
_AS_FAST = 1.002


@dataclass(frozen=True)
class Fit:
    """What was found.

    Attributes:
        settings: The knobs.
        forecast: What they cost.
    """

    settings: Settings
    forecast: Forecast


class _Search:
    """One search.

    Args:
        forecaster: Asked again and again.
        request: What to make.
        start: Knobs that stay.
        model: Name or folder.
        gpu: The card.
        memory_bytes: To fit, altogether.
        should_stop: Handed to the forecaster.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        request: Request,
        start: Settings,
        model: str | Path,
        gpu: str,
        memory_bytes: int,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._forecaster, self._request, self._start = forecaster, request, start
        self._model, self._gpu, self._should_stop = model, gpu, should_stop
        self._budget = int(memory_bytes * (1 - MARGIN))
        self.usable = self._budget - find_card(gpu).with_memory(memory_bytes).context_bytes
        self.most = -_rounded_down(-find_model(model).cache_bytes / GIB)

    def tried(self, **knobs: float) -> Fit:
        """The forecast for these knobs."""
        settings = self._start.replace(**knobs)
        forecast = self._forecaster.forecast(
            self._request,
            settings,
            model=self._model,
            gpu=self._gpu,
            memory_bytes=self._budget,
            should_stop=self._should_stop,
        )
        return Fit(settings, forecast)

    def with_room_used(self, capacity: float, **knobs: float) -> Fit | None:
        """With as much cache as there is room for; None when not even none fits.

        Args:
            capacity: GiB to try first.
            knobs: All others.
        """
        best: Fit | None = None
        for _ in range(_TRIES):
            fit = self.tried(**knobs, cache_capacity=capacity)
            room = (self.usable - fit.forecast.peak_reserved_bytes) / GIB
            if fit.forecast.fits:
                best = fit
                wanted = min(_rounded_down(capacity + room), self.most)
                if wanted - capacity < _WORTH_GIB:
                    break
            elif capacity == 0 or best is not None:
                break
            else:
                used = max(fit.forecast.cache_bytes.values()) / GIB
                wanted = max(
                    0.0, _rounded_down(min(capacity, used) - _CAPACITY_STEP_GIB - fit.forecast.short_bytes / GIB)
                )
            capacity = wanted
        return best


def fastest_that_fits(
    request: Request,
    *,
    model: str | Path,
    gpu: str,
    memory_bytes: int | None = None,
    start: Settings | None = None,
    forecaster: Forecaster | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Fit:
    """The fastest lossless settings that fit, and among equally fast ones the smallest.

    Args:
        request: What to make.
        model: Name or folder.
        gpu: The card whose speed counts.
        memory_bytes: Memory to fit, the CUDA context included; the card's own by default. A twentieth stays free.
        start: All knobs but ``chunk_size``, ``batch_size`` and ``cache_capacity`` stay as they are in it.
        forecaster: Asked; by default a new one.
        should_stop: Asked now and then; True ends the search.

    Raises:
        BadInput: Nothing fits, or the model or card is unknown.
        Cancelled: ``should_stop`` said so.
    """
    total = memory_bytes or find_card(gpu).memory_bytes
    if total is None:
        raise BadInput("gpu", gpu, "a card with memory of its own, or a memory to fit")
    start = (start or Settings()).replace(engine="tuned")
    search = _Search(forecaster or Forecaster(), request, start, model, gpu, total, should_stop)
    found: list[Fit] = []
    capacity = min(_rounded_down(search.usable / GIB / 2), search.most)
    for chunk, batch in _FROM_FAST_TO_SMALL:
        fit = search.with_room_used(capacity, chunk_size=chunk, batch_size=batch)
        if fit is not None:
            slower = found and fit.forecast.seconds > found[-1].forecast.seconds / _AS_FAST
            found.append(fit)
            capacity = fit.settings.cache_capacity
            if slower or capacity == search.most:
                break
    if not found:
        last = search.tried(chunk_size=1, batch_size=1, cache_capacity=0.0, token_chunk=_SMALLEST_TOKENS)
        if not last.forecast.fits:
            need = (last.forecast.peak_reserved_bytes + find_card(gpu).context_bytes) / (1 - MARGIN) / GIB
            raise BadInput("memory", f"{total / GIB:.2f} GiB", f"{need:.2f} GiB or more at this size")
        found.append(last)
    fastest = min(fit.forecast.seconds for fit in found)
    equally = [fit for fit in found if fit.forecast.seconds <= fastest * _AS_FAST]
    return min(equally, key=lambda fit: fit.forecast.peak_reserved_bytes)


def _rounded_down(gib: float) -> float:
    return math.floor(gib / _CAPACITY_STEP_GIB) * _CAPACITY_STEP_GIB
