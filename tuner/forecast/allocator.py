"""A model of PyTorch's CUDA caching allocator: what it reserves for a sequence of allocations.

After ``c10/cuda/CUDACachingAllocator.cpp``. Requests are rounded to 512 bytes. Up to 1 MiB they are cut from
segments of 2 MiB; above, from segments of 20 MiB, and from 10 MiB on from segments of their own, rounded to 2 MiB.
The smallest free block that is large enough is taken and split; freed blocks merge with their neighbours. Whole
free segments go back when the card has no more, or when :meth:`CachingAllocator.release` says so. With
``expandable`` a pool is one segment that grows at its end, and gives back free pages anywhere in it; the holes are
not used again here, as they are there, which takes addresses and no bytes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Protocol

_MIB = 1024**2
_ROUNDING = 512
_SMALL = _MIB
_SMALL_SEGMENT, _LARGE_SEGMENT = 2 * _MIB, 20 * _MIB
_OWN_SEGMENT, _OWN_ROUNDING = 10 * _MIB, 2 * _MIB


class Allocator(Protocol):
    """Hands out device memory.

    Attributes:
        allocated: Bytes handed out.
        reserved: Bytes taken from the device.
        short: Most bytes that were asked for beyond the device's memory; 0 while everything fits.
    """

    allocated: int
    reserved: int
    short: int

    def allocate(self, storage: int, bytes_: int) -> None:
        """Memory for a storage."""
        ...

    def free(self, storage: int) -> None:
        """The storage is gone."""
        ...

    def release(self) -> None:
        """Give back what is held and not in use."""
        ...


class ExactAllocator:
    """Takes what is asked for and gives it back at once, as memory of the CPU is counted."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.short = 0
        self._bytes: dict[int, int] = {}

    def allocate(self, storage: int, bytes_: int) -> None:
        """Memory for a storage."""
        self._bytes[storage] = bytes_
        self.allocated += bytes_
        self.reserved = self.allocated

    def free(self, storage: int) -> None:
        """The storage is gone."""
        self.allocated -= self._bytes.pop(storage)
        self.reserved = self.allocated

    def release(self) -> None:
        """Nothing is held that is not in use."""


@dataclass(eq=False, slots=True)
class _Block:
    """A stretch of a segment, with its neighbours in it."""

    address: int
    size: int
    before: _Block | None = None
    after: _Block | None = None
    free: bool = True

    @property
    def is_whole_segment(self) -> bool:
        return self.before is None and self.after is None


@dataclass(eq=False, slots=True)
class _Pool:
    """The free blocks of one kind, by size and then by address."""

    smallest_remainder: int
    growth: int
    order: list[tuple[int, int]] = field(default_factory=list)
    blocks: dict[int, _Block] = field(default_factory=dict)
    last: _Block | None = None

    def add(self, block: _Block) -> None:
        insort(self.order, (block.size, block.address))
        self.blocks[block.address] = block

    def remove(self, block: _Block) -> None:
        del self.order[bisect_left(self.order, (block.size, block.address))]
        del self.blocks[block.address]

    def best_fit(self, size: int) -> _Block | None:
        """The smallest block that is large enough; one that can grow counts as the largest."""
        place = bisect_left(self.order, (size, 0))
        if place == len(self.order):
            return None
        block = self.blocks[self.order[place][1]]
        if block is self.last and place + 1 < len(self.order):
            block = self.blocks[self.order[place + 1][1]]
        return block


class CachingAllocator:
    """PyTorch's allocator on a card.

    Args:
        limit: Bytes it can have; beyond them it goes on and says so in ``short``. None means no limit.
        expandable: As ``PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True``.
    """

    def __init__(self, limit: int | None = None, expandable: bool = False) -> None:
        self.allocated = self.reserved = self.short = 0
        self._limit, self._expandable = limit, expandable
        self._small = _Pool(_ROUNDING, _SMALL_SEGMENT)
        self._large = _Pool(_ROUNDING if expandable else _SMALL + 1, _LARGE_SEGMENT)
        self._taken: dict[int, tuple[_Pool, _Block]] = {}
        self._next_address = 0

    def allocate(self, storage: int, bytes_: int) -> None:
        """Memory for a storage."""
        if not bytes_:
            return
        size = -(-bytes_ // _ROUNDING) * _ROUNDING
        pool = self._small if size <= _SMALL else self._large
        block = pool.best_fit(size)
        if block is not None:
            pool.remove(block)
        elif self._expandable:
            block = self._grown(pool, size)
        else:
            block = self._segment(_segment_size(size))
        if block.size - size >= pool.smallest_remainder:
            self._split(pool, block, size)
        block.free = False
        self._taken[storage] = pool, block
        self.allocated += block.size

    def free(self, storage: int) -> None:
        """The storage is gone."""
        pool, block = self._taken.pop(storage, (self._small, None))
        if block is None:
            return
        self.allocated -= block.size
        block.free = True
        if block.before is not None and block.before.free:
            pool.remove(block.before)
            block = _merged(block.before, block, pool)
        if block.after is not None and block.after.free:
            pool.remove(block.after)
            block = _merged(block, block.after, pool)
        pool.add(block)

    def _segment(self, size: int) -> _Block:
        self._reserve(size)
        block = _Block(self._next_address, size)
        self._next_address += size
        return block

    def _grown(self, pool: _Pool, size: int) -> _Block:
        """The pool's last block, with as many pages more as the request needs."""
        last = pool.last
        held = 0
        if last is not None and last.free:
            pool.remove(last)
            held = last.size
        more = -(-(size - held) // pool.growth) * pool.growth
        self._reserve(more)
        if last is None:
            # Far enough from the other pool's addresses that neither ever reaches the other.
            block = _Block(0 if pool is self._small else 1 << 60, more)
        elif last.free:
            last.size += more
            return last
        else:
            block = _Block(last.address + last.size, more, before=last)
            last.after = block
        pool.last = block
        return block

    def _split(self, pool: _Pool, block: _Block, size: int) -> None:
        rest = _Block(block.address + size, block.size - size, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        if pool.last is block:
            pool.last = rest
        block.after, block.size = rest, size
        pool.add(rest)

    def release(self) -> None:
        """Give back segments that are free; with ``expandable``, the pages of free blocks."""
        for pool in (self._small, self._large):
            for block in list(pool.blocks.values()):
                if self._expandable:
                    self._unmap(pool, block)
                elif block.is_whole_segment:
                    pool.remove(block)
                    self.reserved -= block.size

    def _reserve(self, size: int) -> None:
        if self._limit is not None and self.reserved + size > self._limit:
            self.release()
            self.short = max(self.short, self.reserved + size - self._limit)
        self.reserved += size

    def _unmap(self, pool: _Pool, block: _Block) -> None:
        """Give back the whole pages of a free block; what is left of it has nothing after it."""
        pages = block.size // pool.growth * pool.growth
        if not pages:
            return
        self.reserved -= pages
        pool.remove(block)
        block.size -= pages
        if pool.last is block:
            pool.last = block if block.size else block.before
        if block.after is not None:
            block.after.before = None
            block.after = None
        if block.size:
            pool.add(block)
        elif block.before is not None:
            block.before.after = None


def _merged(first: _Block, second: _Block, pool: _Pool) -> _Block:
    first.size += second.size
    first.after = second.after
    if second.after is not None:
        second.after.before = first
    if pool.last is second:
        pool.last = first
    first.free = True
    return first


def _segment_size(size: int) -> int:
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _OWN_SEGMENT:
        return _LARGE_SEGMENT
    return -(-size // _OWN_ROUNDING) * _OWN_ROUNDING
