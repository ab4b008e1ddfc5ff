"""Memory of a rehearsed run: its allocations, replayed through an allocator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from tuner.forecast.allocator import Allocator
from tuner.forecast.trace import Began, Born, Died, Entry, Filled, Ran, Remembered, Repeated, Segment
from tuner.meter.events import Stage

_WORKSPACE = -1


class Split(TypedDict):
    """Bytes by what they are for; together they are all that is handed out.

    ``features`` are the frames that the VAE's convolutions remember, ``workspace`` is the matrix products'.
    """

    weights: int
    activations: int
    features: int
    workspace: int


@dataclass
class StageMemory:
    """One stage's peaks.

    Attributes:
        stage: Its name.
        allocated: Bytes handed out at most.
        reserved: Bytes taken from the device at most.
        split: What they were for when most were handed out.
    """

    stage: Stage
    allocated: int
    reserved: int
    split: Split


class Ledger:
    """Replays a trace.

    Args:
        allocator: Hands out the memory.
        workspace_bytes: What the library of matrix products keeps from the first product on.
    """

    def __init__(self, allocator: Allocator, workspace_bytes: int = 0) -> None:
        self.stages: list[StageMemory] = []
        self._allocator = allocator
        self._workspace_bytes = workspace_bytes
        self._workspace_held = 0
        self._known: dict[Segment, tuple[int, int, int]] = {}
        self._changes = 0
        self._sizes: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        self._weight_bytes = self._feature_bytes = 0

    def replay(self, entries: Iterable[Entry]) -> list[StageMemory]:
        """The peaks of every stage in ``entries``."""
        for entry in entries:
            self.take(entry)
        return self.stages

    def take(self, entry: Entry) -> None:
        """Let one more thing happen."""
        match entry:
            case Repeated():
                self._repeat(entry.segment)
            case Born() | Died() | Ran():
                self._account(entry)
            case Filled():
                self._count_weights(entry.storage)
            case Remembered():
                self._feature_bytes += entry.bytes
            case Began():
                self._allocator.release()
                self._changes += 1
                held, reserved = self._allocator.allocated, self._allocator.reserved
                self.stages.append(StageMemory(entry.stage, held, reserved, self._split(held)))
            case _:
                pass

    def _account(self, entry: Born | Died | Ran) -> None:
        if isinstance(entry, Born):
            self._changes += 1
            self._allocator.allocate(entry.storage, entry.bytes)
            self._sizes[entry.storage] = entry.bytes
            if entry.holds_weights:
                self._count_weights(entry.storage)
        elif isinstance(entry, Died):
            self._changes += 1
            self._allocator.free(entry.storage)
            self._sizes.pop(entry.storage, None)
            self._weight_bytes -= self._weights.pop(entry.storage, 0)
            return
        elif self._workspace_bytes and entry.work == "matmul":
            self._allocator.allocate(_WORKSPACE, self._workspace_bytes)
            self._workspace_held, self._workspace_bytes = self._workspace_bytes, 0
        self._reach(self._allocator.allocated, self._allocator.reserved)

    def _repeat(self, segment: Segment) -> None:
        """Replay a segment, unless the allocator is as it was when the segment last left it as it found it."""
        allocator = self._allocator
        changes, allocated, reserved = self._known.get(segment, (-1, 0, 0))
        if changes == self._changes:
            self._reach(allocated, reserved)
            return
        before, held, began = self._changes, allocator.reserved, self.stages
        self.stages = [StageMemory("load", 0, 0, self._split(0))]
        for entry in segment.entries:
            if isinstance(entry, Born | Died | Ran):
                self._account(entry)
        (highest,), self.stages = self.stages, began
        self._reach(highest.allocated, highest.reserved)
        if allocator.reserved == held:
            self._changes = before
        self._known[segment] = self._changes, highest.allocated, highest.reserved

    def _reach(self, allocated: int, reserved: int) -> None:
        if self.stages:
            stage = self.stages[-1]
            if allocated > stage.allocated:
                stage.allocated, stage.split = allocated, self._split(allocated)
            stage.reserved = max(stage.reserved, reserved)

    def _count_weights(self, storage: int) -> None:
        self._weights[storage] = self._sizes[storage]
        self._weight_bytes += self._sizes[storage]

    def _split(self, allocated: int) -> Split:
        weights, workspace = min(self._weight_bytes, allocated), self._workspace_held
        features = max(0, min(self._feature_bytes, allocated - weights - workspace))
        rest = max(0, allocated - weights - workspace - features)
        return {"weights": weights, "activations": rest, "features": features, "workspace": workspace}
