"""Weights on the device: all of a module's, or its blocks', of which a prefix stays and the rest streams.

Blocks are visited in the same order every step. On such a cyclic scan an LRU cache misses every time;
keeping a fixed prefix is the optimum (Belady 1966), so that is what ``cache_capacity`` buys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from tuner.engine.packed import PackedModule
from tuner.engine.placement import Placement
from tuner.meter.meter import CacheCounter
from tuner.meter.queues import Queues


@contextmanager
def on_device(module: nn.Module, placement: Placement, blocks: Sequence[nn.Module] = ()) -> Iterator[None]:
    """All weights of ``module`` on the device while the context lasts.

    Args:
        module: Its weights are on the host.
        placement: Moves them.
        blocks: Parts to pack each by itself, as :class:`BlockWeights` does, so that a model that is run both
            ways is packed once.
    """
    packed = [
        PackedModule(module, placement, without=blocks),
        *(PackedModule(block, placement) for block in blocks),
    ]
    try:
        for part in packed:
            part.bind(part.views(placement.to_device(part.host)))
        yield
    finally:
        for part in packed:
            part.unbind()


class _Slot:
    """A device buffer that blocks are copied into: one that stays, or several in turn.

    Where the device copies beside computing, a copy waits for the last use of what it overwrites, and a use
    waits for its copy; nothing waits on the host.
    """

    def __init__(self, nbytes: int, device: torch.device, queues: Queues | None) -> None:
        self.buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        self.is_new = False
        self._views: dict[object, list[Tensor]] = {}
        self._queues = queues
        if queues is not None:
            self._filled, self._free = queues.event(), queues.event()
            # The memory may have been somebody's whose work is still queued.
            queues.reached(self._free)

    def fill(self, index: int, block: PackedModule) -> None:
        """Begin to copy block number ``index`` here, once the last use of what was here is over."""
        target = self.buffer[: block.nbytes]
        if self._queues is None:
            target.copy_(block.host)
        else:
            self._queues.copy(target, block.host, after=self._free, done=self._filled)
        self.holds, self.is_new = index, True

    @contextmanager
    def bound(self, block: PackedModule) -> Iterator[None]:
        """The block computes with what is here."""
        if self._queues is not None:
            self._queues.wait(self._filled)
        views = self._views.get(block.layout)
        if views is None:
            views = self._views[block.layout] = block.views(self.buffer)
        block.bind(views)
        self.is_new = False
        try:
            yield
        finally:
            block.unbind()
            if self._queues is not None:
                self._queues.reached(self._free)


class BlockWeights:
    """A model's blocks, each with its weights on the device while it is used.

    They are used in order, again and again. A prefix stays; the others take turns in ``prefetch + 1`` buffers:
    the one in use, and those that will be used next, the first ones following the last.

    Args:
        blocks: In the order of use.
        placement: Moves the bytes.
        capacity_bytes: Blocks of the prefix that fits stay on the device, and more where that takes less memory.
        prefetch: Blocks copied ahead of the one in use; each takes a buffer of the largest that does not stay.
        counter: Told of hits (still there), misses (copied), evictions (overwritten) and bytes that stay.
    """

    def __init__(
        self,
        blocks: Sequence[PackedModule],
        placement: Placement,
        capacity_bytes: int,
        prefetch: int,
        counter: CacheCounter,
    ) -> None:
        self._placement, self._counter = placement, counter
        self._blocks = blocks
        sizes = [block.nbytes for block in blocks]
        self.resident = smallest_prefix(sizes, capacity_bytes, prefetch)
        streamed = sizes[self.resident :]
        queues = placement.meter.queues()
        self._kept = [_Slot(size, placement.device, queues) for size in sizes[: self.resident]]
        turns = min(prefetch + 1, len(streamed))
        self._turns = [_Slot(max(streamed), placement.device, queues) for _ in range(turns)]
        self._streamed = len(streamed)
        self._used = self._fetched = 0  # streamed blocks, counted on from pass to pass
        counter.hold(sum(sizes[: self.resident]))
        for index, slot in enumerate(self._kept):
            self._fetch(index, slot)

    def __len__(self) -> int:
        return len(self._blocks)

    @contextmanager
    def on_device(self, index: int) -> Iterator[nn.Module]:
        """Block number ``index`` with its weights on the device; the next ones are on their way."""
        block, streams = self._blocks[index], index >= self.resident
        if streams:
            self._expect(index - self.resident)
        self._fetch_ahead()
        slot = self._turns[self._used % len(self._turns)] if streams else self._kept[index]
        if not slot.is_new:
            self._counter.hits += 1
        try:
            with slot.bound(block):
                yield block.module
        finally:
            if streams:
                self._used += 1

    @contextmanager
    def during_forward(self) -> Iterator[None]:
        """Let a model that calls the blocks by itself, in their order, find each one's weights on the device."""
        with ExitStack() as hooks:
            in_use = hooks.enter_context(ExitStack())

            def prepare(index: int) -> Callable[..., None]:
                def before(*_: object) -> None:
                    in_use.enter_context(self.on_device(index))

                return before

            def after(*_: object) -> None:
                in_use.close()

            for index, block in enumerate(self._blocks):
                hooks.callback(block.module.register_forward_pre_hook(prepare(index)).remove)
                hooks.callback(block.module.register_forward_hook(after, always_call=True).remove)
            yield

    def close(self) -> None:
        """Free the device."""
        self._placement.meter.synchronize()
        self._counter.hold(-self._counter.held_bytes)
        self._kept.clear()
        self._turns.clear()

    def _expect(self, number: int) -> None:
        """Streamed block ``number`` is used next, though a pass before it was cut short."""
        if self._used % self._streamed != number:
            self._used = self._fetched = number

    def _fetch_ahead(self) -> None:
        """Begin to copy the streamed blocks used next, as far as there are buffers."""
        while self._fetched < self._used + len(self._turns):
            slot = self._turns[self._fetched % len(self._turns)]
            self._fetch(self.resident + self._fetched % self._streamed, slot)
            self._fetched += 1

    def _fetch(self, index: int, slot: _Slot) -> None:
        if slot.holds == index:
            return
        if slot.holds is not None:
            self._counter.evictions += 1
        self._counter.misses += 1
        slot.fill(index, self._blocks[index])
        self._placement.meter.transferred("h2d", self._blocks[index].nbytes)


def resident_prefix(sizes: Sequence[int], capacity: int) -> int:
    """How many of the first blocks fit ``capacity`` bytes together."""
    held = 0
    for count, size in enumerate(sizes):
        held += size
        if held > capacity:
            return count
    return len(sizes)


def smallest_prefix(sizes: Sequence[int], capacity: int, prefetch: int) -> int:
    """How many of the first blocks are to stay: what fits ``capacity`` bytes, or more if that takes less memory.

    It does where the blocks that are left would have to share buffers as large as the largest of them, though
    they are few or small.
    """

    def bytes_on_device(count: int) -> int:
        streamed = sizes[count:]
        return sum(sizes[:count]) + min(prefetch + 1, len(streamed)) * max(streamed, default=0)

    return min(range(resident_prefix(sizes, capacity), len(sizes) + 1), key=bytes_on_device)
