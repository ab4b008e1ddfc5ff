"""Memory of a rehearsed run: its allocations, replayed through an allocator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuner.forecast.allocator import Allocator
from tuner.forecast.trace import Began, Born, Died, Entry, Ran, Repeated, Segment
from tuner.meter.events import Stage

_WORKSPACE = -1


@dataclass
class StageMemory:
    """One stage's peaks.

    Attributes:
        stage: Its name.
        allocated: Bytes handed out at most.
        reserved: Bytes taken from the device at most.
    """

    stage: Stage
    allocated: int
    reserved: int


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
        self._known: dict[Segment, tuple[int, int, int]] = {}
        self._changes = 0

    def replay(self, entries: Iterable[Entry]) -> list[StageMemory]:
        """The peaks of every stage in ``entries``."""
        for entry in entries:
            match entry:
                case Repeated():
                    self._repeat(entry.segment)
                case Born() | Died() | Ran():
                    self._account(entry)
                case Began():
                    self._allocator.release()
                    self._changes += 1
                    self.stages.append(
                        StageMemory(entry.stage, self._allocator.allocated, self._allocator.reserved)
                    )
                case _:
                    pass
        return self.stages

    def _account(self, entry: Born | Died | Ran) -> None:
        if isinstance(entry, Born):
            self._changes += 1
            self._allocator.allocate(entry.storage, entry.bytes)
        elif isinstance(entry, Died):
            self._changes += 1
            self._allocator.free(entry.storage)
            return
        elif self._workspace_bytes and entry.work == "matmul":
            self._allocator.allocate(_WORKSPACE, self._workspace_bytes)
            self._workspace_bytes = 0
        self._reach(self._allocator.allocated, self._allocator.reserved)

    def _repeat(self, segment: Segment) -> None:
        """Replay a segment, unless the allocator is as it was when the segment last left it as it found it."""
        allocator = self._allocator
        changes, allocated, reserved = self._known.get(segment, (-1, 0, 0))
        if changes == self._changes:
            self._reach(allocated, reserved)
            return
        before, held, began = self._changes, allocator.reserved, self.stages
        self.stages = [StageMemory("load", 0, 0)]
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
            stage.allocated = max(stage.allocated, allocated)
            stage.reserved = max(stage.reserved, reserved)
