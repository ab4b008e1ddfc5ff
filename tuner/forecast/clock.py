"""Time of a rehearsed run on a card: every operation against the card's limits.

An operation takes as long as its arithmetic or its bytes, whichever is longer, and its launch (the roofline model,
Williams et al. 2009). Copies that the engine gives to a stream of their own run beside the arithmetic; each waits
for the other only where the engine makes it wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from tuner.forecast.trace import (
    Began,
    Copied,
    Counted,
    Entry,
    Lane,
    Ran,
    Recorded,
    Repeated,
    Segment,
    Stepped,
    Waited,
    Work,
)
from tuner.hardware import Card
from tuner.meter.events import Stage
from tuner.meter.measured import TransfersMeasured

_LAUNCH_SECONDS = 5e-6
_COPY_SECONDS = 10e-6
_RATE_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


@dataclass(frozen=True)
class Efficiency:
    """How much of a card's data sheet programs get.

    The first two are fitted on what EasyAnimate publishes for the 12B model on an A10 (the figures are in
    tests/forecast/test_clock.py); the other two are what copying programs commonly get.

    Attributes:
        products: Of the arithmetic rate, in matrix products and convolutions.
        attention: Of the arithmetic rate, in fused attention.
        memory: Of the memory's bandwidth, in everything else.
        transfer: Of the bus, between pinned host memory and the card.
    """

    products: float = 0.457
    attention: float = 0.605
    memory: float = 0.80
    transfer: float = 0.80


@dataclass
class StageTime:
    """One stage: its seconds, and the transfers that the engine counts in it."""

    stage: Stage
    seconds: float
    transfers: TransfersMeasured


class Clock:
    """Runs a trace on a card.

    Args:
        card: Its limits.
        efficiency: How much of them is reached.
        steps: Denoising steps of the run; those that were not rehearsed are like the last that was.
    """

    def __init__(self, card: Card, efficiency: Efficiency, steps: int) -> None:
        self.stages: list[StageTime] = []
        self.step_seconds: list[float] = []
        self._card, self._efficiency, self._steps = card, efficiency, steps
        self._now: dict[Lane, float] = {"compute": 0.0, "copy": 0.0}
        self._events: dict[int, float] = {}
        self._segments: dict[Segment, float] = {}
        self._costs: dict[Ran, float] = {}
        self._stage_began = self._step_began = 0.0
        self._step_transfers = _no_transfers()

    @property
    def seconds(self) -> float:
        """Of the whole run, what comes before its first stage included."""
        return self._now["compute"]

    def run(self, entries: Iterable[Entry]) -> list[StageTime]:
        """Seconds and transfers of every stage in ``entries``."""
        for entry in entries:
            self.take(entry)
        self._end_stage()
        return self.stages

    def take(self, entry: Entry) -> None:
        """Let one more thing happen."""
        match entry:
            case Ran():
                self._now["compute"] += self._seconds_of(entry)
            case Repeated():
                self._now["compute"] += self._seconds_of_segment(entry.segment)
            case Copied():
                self._now[entry.lane] += self._seconds_of_copy(entry)
            case Recorded():
                self._events[entry.event] = self._now[entry.lane]
            case Waited():
                self._now[entry.lane] = max(self._now[entry.lane], self._events.get(entry.event, 0.0))
            case Counted():
                _count(self._step_transfers, entry.direction, 1, entry.bytes)
                if self.stages:
                    _count(self.stages[-1].transfers, entry.direction, 1, entry.bytes)
            case Began():
                self._end_stage()
                self.stages.append(StageTime(entry.stage, 0.0, _no_transfers()))
                self._stage_began = self._step_began = self._now["compute"]
                self._step_transfers = _no_transfers()
            case Stepped():
                self._end_step(entry.step, entry.of)
            case _:
                pass

    def _end_stage(self) -> None:
        if not self.stages:
            return
        stage, now = self.stages[-1], self._synchronized()
        stage.seconds = now - self._stage_began

    def _end_step(self, number: int, of: int) -> None:
        """Note a step; those that were not rehearsed follow the last that was."""
        seconds = self._now["compute"] - self._step_began
        times = 1 + (self._steps - of if number == of else 0)
        self.step_seconds += [seconds] * times
        for lane in self._now:
            self._now[lane] += (times - 1) * seconds
        transfers, self._step_transfers = self._step_transfers, _no_transfers()
        more = times - 1
        _count(self.stages[-1].transfers, "h2d", more * transfers["h2d_count"], more * transfers["h2d_bytes"])
        _count(self.stages[-1].transfers, "d2h", more * transfers["d2h_count"], more * transfers["d2h_bytes"])
        self._step_began = self._now["compute"]

    def _synchronized(self) -> float:
        latest = max(self._now.values())
        self._now = {"compute": latest, "copy": latest}
        return latest

    def _seconds_of(self, ran: Ran) -> float:
        seconds = self._costs.get(ran)
        if seconds is None:
            by_memory = ran.bytes / (self._card.bandwidth * self._share("other"))
            rate = self._card.rates.get(_RATE_NAMES.get(ran.dtype, "float32"), self._card.rates["float32"])
            by_rate = ran.flops / (rate * self._share(ran.work))
            seconds = self._costs[ran] = max(by_rate, by_memory) + _LAUNCH_SECONDS
        return seconds

    def _share(self, work: Work) -> float:
        """How much of the card's data sheet this kind of work gets."""
        efficiency = self._efficiency
        general = {"attention": efficiency.attention, "other": efficiency.memory}.get(work, efficiency.products)
        return self._card.reach.get(work, general)

    def _seconds_of_segment(self, segment: Segment) -> float:
        seconds = self._segments.get(segment)
        if seconds is None:
            seconds = self._segments[segment] = sum(
                self._seconds_of(entry) for entry in segment.entries if isinstance(entry, Ran)
            )
        return seconds

    def _seconds_of_copy(self, copied: Copied) -> float:
        return copied.bytes / (self._card.transfer * self._efficiency.transfer) + _COPY_SECONDS


def _no_transfers() -> TransfersMeasured:
    return {"h2d_count": 0, "h2d_bytes": 0, "d2h_count": 0, "d2h_bytes": 0}


def _count(transfers: TransfersMeasured, direction: str, count: int, bytes_: int) -> None:
    if direction == "h2d":
        transfers["h2d_count"] += count
        transfers["h2d_bytes"] += bytes_
    else:
        transfers["d2h_count"] += count
        transfers["d2h_bytes"] += bytes_
