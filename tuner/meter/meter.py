"""The meter: measures one run and tells what happens in it as events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from tuner.errors import Cancelled
from tuner.meter.events import (
    LEVELS,
    CacheUsed,
    Direction,
    Event,
    FramesReady,
    Level,
    MemorySample,
    Noticed,
    OnEvent,
    Stage,
    StageStarted,
    StepDone,
    Transferred,
)
from tuner.meter.measured import Measured, StageMeasured
from tuner.meter.memory import DeviceMemory, memory_of
from tuner.meter.queues import CudaQueues, Queues

_SAMPLE_SECONDS = 0.05
_SAMPLES_PER_DOUBLING = 400


@dataclass
class CacheCounter:
    """What one cache level did: the caches write it, the meter reads it."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    held_bytes: int = 0
    peak_bytes: int = 0
    stage_peak_bytes: int = 0

    def hold(self, bytes_: int) -> None:
        """``bytes_`` more are held (fewer, when negative)."""
        self.held_bytes += bytes_
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        self.stage_peak_bytes = max(self.stage_peak_bytes, self.held_bytes)


@dataclass
class _Copies:
    count: int = 0
    bytes: int = 0
    told_count: int = 0
    told_bytes: int = 0


class Meter:
    """Measures one run.

    Used as a context it counts device memory and, with ``on_event``, samples it from a thread of its own.
    Outside of one it only counts transfers and cache use, which is all that a runner used alone needs.

    Args:
        device: Where the run computes.
        on_event: Receives every event, in order; one at a time, though from two threads.
        should_stop: Asked between blocks, steps and chunks; True ends the run.
        memory: Keeps the account of device memory; by default the device's own.
    """

    def __init__(
        self,
        device: torch.device,
        on_event: OnEvent | None = None,
        should_stop: Callable[[], bool] | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.caches: dict[Level, CacheCounter] = {level: CacheCounter() for level in LEVELS}
        self.device = device
        self._device = device
        self._memory = memory or memory_of(device)
        self._on_event = on_event
        self._should_stop = should_stop
        self._copies: dict[Direction, _Copies] = {"h2d": _Copies(), "d2h": _Copies()}
        self._stages: list[StageMeasured] = []
        self._peaks: list[tuple[int, int]] = []
        self._steps: list[float] = []
        self.current_stage: Stage = "load"
        self._began = time.perf_counter()
        self._telling = threading.Lock()
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample_until_over, name="meter", daemon=True)
        self._watch = ExitStack()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    def __enter__(self) -> Self:
        self._watch.enter_context(self._memory.watching())
        if self._on_event:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._sampler.is_alive():
            self._sampler.join()
        self._watch.close()

    def tell(self, event: Event) -> None:
        """Hand one event to whoever listens."""
        if self._on_event:
            with self._telling:
                self._on_event(event)

    def notice(self, message: str) -> None:
        """Tell the user something that is no error."""
        self.tell(Noticed(self.seconds, message))

    def checkpoint(self) -> None:
        """A place where the run may be stopped.

        Raises:
            Cancelled: Somebody asked for it.
        """
        if self._should_stop and self._should_stop():
            raise Cancelled("cancelled")

    def host(self) -> AbstractContextManager[object]:
        """Context in which new tensors stand for host memory."""
        return self._memory.host()

    def queues(self) -> Queues | None:
        """New queues of the device, or None where copies are made in between."""
        return CudaQueues(self._device) if self._device.type == "cuda" else None

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read next means something."""
        self._memory.synchronize()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Measure one stage: seconds and peak."""
        self.checkpoint()
        self.current_stage = name
        self.tell(StageStarted(self.seconds, name))
        self._memory.start_peak()
        for cache in self.caches.values():
            cache.stage_peak_bytes = cache.held_bytes
        began = time.perf_counter()
        try:
            yield
            self._memory.synchronize()
        finally:
            allocated, reserved = self._memory.peak()
            self._peaks.append((allocated, reserved))
            self._stages.append(
                {"name": name, "seconds": time.perf_counter() - began, "peak_allocated_bytes": allocated}
            )
            self.tell_counts()

    @contextmanager
    def step(self, step: int, steps: int) -> Iterator[None]:
        """Measure denoising step ``step`` (1 for the first) of ``steps``."""
        self.checkpoint()
        began = time.perf_counter()
        yield
        self._memory.synchronize()
        seconds = time.perf_counter() - began
        self._steps.append(seconds)
        self.tell_counts()
        self.tell(StepDone(self.seconds, step, steps, seconds))

    def frames_ready(self, done: int, total: int) -> None:
        """``done`` of ``total`` frames are decoded."""
        self.tell_counts()
        self.tell(FramesReady(self.seconds, done, total))
        self.checkpoint()

    def in_place(
        self, work: Callable[..., None], module: torch.nn.Module, *inputs: Tensor | tuple[Tensor, ...] | bool
    ) -> None:
        """Run ``work(module, *inputs)``, which changes its inputs in place and leaves nothing else behind.

        A forecast looks at such work once for each set of shapes.
        """
        work(module, *inputs)

    def transferred(self, direction: Direction, bytes_: int) -> None:
        """One copy between host and device was made."""
        copies = self._copies[direction]
        copies.count += 1
        copies.bytes += bytes_

    def tell_counts(self) -> None:
        """Tell what was copied and cached since the last call."""
        if not self._on_event:
            return
        for direction, copies in self._copies.items():
            if copies.count > copies.told_count:
                count, bytes_ = copies.count - copies.told_count, copies.bytes - copies.told_bytes
                copies.told_count, copies.told_bytes = copies.count, copies.bytes
                self.tell(Transferred(self.seconds, direction, count, bytes_))
        for level, cache in self.caches.items():
            if cache.hits or cache.misses:
                self.tell(
                    CacheUsed(self.seconds, level, cache.hits, cache.misses, cache.evictions, cache.held_bytes)
                )

    def measured(self) -> Measured:
        """What was measured so far."""
        allocated = max((peak[0] for peak in self._peaks), default=0)
        reserved = max((peak[1] for peak in self._peaks), default=0)
        h2d, d2h = self._copies["h2d"], self._copies["d2h"]
        return {
            "peak_allocated_bytes": allocated,
            "peak_reserved_bytes": reserved,
            "fragmentation": (reserved - allocated) / reserved if reserved else 0.0,
            "seconds": self.seconds,
            "step_seconds": list(self._steps),
            "stages": list(self._stages),
            "transfers": {
                "h2d_count": h2d.count,
                "h2d_bytes": h2d.bytes,
                "d2h_count": d2h.count,
                "d2h_bytes": d2h.bytes,
            },
            "cache": {
                level: {
                    "hits": cache.hits,
                    "misses": cache.misses,
                    "evictions": cache.evictions,
                    "peak_bytes": cache.peak_bytes,
                }
                for level, cache in self.caches.items()
            },
        }

    def _sample_until_over(self) -> None:
        import psutil  # only here: a meter that only counts works without it

        process = psutil.Process()
        while True:
            allocated, reserved = self._memory.now()
            self.tell(MemorySample(self.seconds, allocated, reserved, process.memory_info().rss))
            # A long run is sampled more sparsely: some hundred points for each doubling of its length.
            if self._over.wait(max(_SAMPLE_SECONDS, self.seconds / _SAMPLES_PER_DOUBLING)):
                return
