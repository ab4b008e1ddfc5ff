"""The caches' bookkeeping: what stays on the device under a capacity, and what goes to the host.

Keys, sizes and order of use decide everything; tensors are only carried along.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tuner.engine.frames import Frame
from tuner.meter.meter import CacheCounter


def nbytes_of(value: Tensor | tuple[Tensor, ...]) -> int:
    """Bytes of one tensor or of several."""
    return sum(tensor.nbytes for tensor in value) if isinstance(value, tuple) else value.nbytes


class ConditionCache:
    """A byte-bounded LRU of tensors that are made once and used often.

    Args:
        capacity_bytes: What is larger than this is made anew each time.
        counter: Told of hits, misses, evictions and, unless ``on_host`` is given, of device bytes held.
        on_host: Keeps host tensors here from run to run, instead of device tensors for one run.
    """

    def __init__(
        self,
        capacity_bytes: int,
        counter: CacheCounter,
        on_host: OrderedDict[Hashable, tuple[Tensor, ...]] | None = None,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.counter = counter
        self._device_bytes = on_host is None
        self._held = OrderedDict() if on_host is None else on_host
        self._held_bytes = sum(nbytes_of(value) for value in self._held.values())

    @property
    def held_bytes(self) -> int:
        """Bytes of everything held now."""
        return self._held_bytes

    def get(self, key: Hashable, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What ``key`` stands for, made by ``make`` unless it is held."""
        if key in self._held:
            self.counter.hits += 1
            self._held.move_to_end(key)
            return self._held[key]
        self.counter.misses += 1
        value = make()
        size = nbytes_of(value)
        if size <= self.capacity_bytes:
            while self._held_bytes + size > self.capacity_bytes:
                self._evict()
            self._held[key] = value
            self._hold(size)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._hold(-self._held_bytes)

    def _evict(self) -> None:
        _, value = self._held.popitem(last=False)
        self.counter.evictions += 1
        self._hold(-nbytes_of(value))

    def _hold(self, bytes_: int) -> None:
        self._held_bytes += bytes_
        if self._device_bytes:
            self.counter.hold(bytes_)


@dataclass(frozen=True, order=True)
class Feature:
    """Which convolution's frames: its stage, and its place within the stage."""

    stage: int
    conv: int


class FeatureCache:
    """The frames that causal convolutions remember, on the device as far as the capacity goes.

    The order of use is known before the first frame is decoded, so what is needed latest goes to the host
    first (Belady 1966).

    Args:
        visits: The stages in the order they will be run.
        capacity_bytes: Device bytes the remembered frames may take between uses.
        counter: Told of hits (still on the device), misses (fetched), evictions (sent to the host).
    """

    def __init__(self, visits: Sequence[int], capacity_bytes: int, counter: CacheCounter) -> None:
        self._capacity = capacity_bytes
        self._counter = counter
        self._visit = -1
        self._held_bytes = 0
        self._remembered: dict[Feature, list[Frame]] = {}
        self._on_device: dict[Frame, Feature] = {}
        self._visits_of: dict[int, list[int]] = {}
        for visit, stage in enumerate(visits):
            self._visits_of.setdefault(stage, []).append(visit)

    def begin_visit(self) -> None:
        """The next stage of the known order begins."""
        self._visit += 1

    def take(self, feature: Feature) -> list[Frame]:
        """The remembered frames, oldest first; none before the first :meth:`put`."""
        frames = self._remembered.pop(feature, [])
        for frame in dict.fromkeys(frames):
            if self._on_device.pop(frame, None) is None:
                self._counter.misses += 1
            else:
                self._counter.hits += 1
                self._hold(-frame.nbytes)
        return frames

    def put(self, feature: Feature, frames: list[Frame]) -> None:
        """Remember ``frames`` until the convolution's next use; forget them when there is none."""
        if self._next_use(feature) is None:
            return
        self._remembered[feature] = frames
        for frame in dict.fromkeys(frames):
            if frame.is_on_device:
                self._keep(frame, feature)

    def close(self) -> None:
        """Forget everything."""
        self._remembered.clear()
        self._on_device.clear()
        self._hold(-self._held_bytes)

    def _keep(self, frame: Frame, feature: Feature) -> None:
        """Make room for ``frame`` among what is on the device, or send it to the host."""
        while self._held_bytes + frame.nbytes > self._capacity:
            candidates = {**self._on_device, frame: feature}
            latest = max(candidates, key=lambda held: self._due(candidates[held]))
            self._counter.evictions += 1
            latest.spill()
            if latest is frame:
                return
            del self._on_device[latest]
            self._hold(-latest.nbytes)
        frame.keep_alone()
        self._on_device[frame] = feature
        self._hold(frame.nbytes)

    def _due(self, feature: Feature) -> tuple[int, int]:
        """The larger, the later ``feature`` is needed."""
        return self._next_use(feature) or 0, feature.conv

    def _next_use(self, feature: Feature) -> int | None:
        visits = self._visits_of[feature.stage]
        following = bisect_right(visits, self._visit)
        return visits[following] if following < len(visits) else None

    def _hold(self, bytes_: int) -> None:
        self._held_bytes += bytes_
        self._counter.hold(bytes_)
