"""The meter of a run on a fake card."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from tuner.forecast.card import FakeCard, FakeQueues, FusedAttention
from tuner.forecast.shapes import signature
from tuner.forecast.trace import Began, Counted, Remembered, Repeated, Segment, Stepped
from tuner.meter.events import Direction, Stage
from tuner.meter.meter import CacheCounter, Meter

_ATTENDS = ("encode text", "denoise")
"""The stages with attention; looking for it at every call costs much of a forecast's time."""


class ForecastMeter(Meter):
    """Measures a run on a fake card: bytes as ever, and no seconds.

    Args:
        card: Entered by whoever starts the run.
        should_stop: As the engine's own.
    """

    def __init__(self, card: FakeCard, should_stop: Callable[[], bool] | None = None) -> None:
        super().__init__(torch.device("meta"), should_stop=should_stop, memory=card)
        self._card = card
        self._segments: dict[Hashable, Segment] = {}
        self.caches["features"] = _NotedCounter(card)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Measure one stage, marked in the trace."""
        self._card.note(Began(name))
        with super().stage(name), FusedAttention(self._card.is_cpu) if name in _ATTENDS else nullcontext():
            yield

    @contextmanager
    def step(self, step: int, steps: int) -> Iterator[None]:
        """Measure one step, marked in the trace."""
        with super().step(step, steps):
            yield
        self._card.note(Stepped(step, steps))

    def queues(self) -> FakeQueues | None:
        """Queues that write down what they do; a CPU has none."""
        return None if self._card.is_cpu else FakeQueues(self._card)

    def transferred(self, direction: Direction, bytes_: int) -> None:
        """One copy between host and device was made."""
        super().transferred(direction, bytes_)
        self._card.note(Counted(direction, bytes_))

    def in_place(self, work: Callable[..., None], module: torch.nn.Module, *inputs: Any) -> None:
        """Run ``work`` the first time; write it down again when everything has the shapes it had before."""
        key = work, tuple(signature(tensor) for tensor in module.parameters()), signature(inputs)
        segment = self._segments.get(key)
        if segment is None:
            segment = self._segments[key] = Segment()
            with self._card.segment(segment):
                work(module, *inputs)
        else:
            self._card.reach(segment.peak_bytes)
        self._card.note(Repeated(segment))


class _NotedCounter(CacheCounter):
    """Writes down what the features take; their convolutions hold them, so no birth or death tells."""

    def __init__(self, card: FakeCard) -> None:
        super().__init__()
        self._card = card

    def hold(self, bytes_: int) -> None:
        super().hold(bytes_)
        self._card.note(Remembered(bytes_))
