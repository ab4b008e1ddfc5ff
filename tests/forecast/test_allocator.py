"""Checked against what c10/cuda/CUDACachingAllocator.cpp does with the same requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.forecast.allocator import CachingAllocator, ExactAllocator

MIB = 1024**2


def after(*requests: int, expandable: bool = False) -> CachingAllocator:
    allocator = CachingAllocator(expandable=expandable)
    for storage, bytes_ in enumerate(requests):
        allocator.allocate(storage, bytes_)
    return allocator


@pytest.mark.parametrize(
    ("requests", "allocated", "reserved"),
    [
        ((1,), 512, 2 * MIB),
        ((513,), 1024, 2 * MIB),
        ((MIB,), MIB, 2 * MIB),
        ((MIB, MIB, 1), 2 * MIB + 512, 4 * MIB),  # the third needs a second small segment
        ((MIB + 1,), MIB + 512, 20 * MIB),
        ((3 * MIB, 3 * MIB), 6 * MIB, 20 * MIB),
        ((10 * MIB,), 10 * MIB, 10 * MIB),
        ((11 * MIB,), 12 * MIB, 12 * MIB),  # a remainder of 1 MiB is not split off, and counts
        ((10 * MIB + 1, 5 * MIB), 15 * MIB + 512, 32 * MIB),
        ((0,), 0, 0),
    ],
)
def test_requests_are_rounded_and_cut_from_segments(requests, allocated, reserved):
    allocator = after(*requests)
    assert (allocator.allocated, allocator.reserved) == (allocated, reserved)


def test_freed_neighbours_merge_and_serve_a_larger_request():
    allocator = after(5 * MIB, 5 * MIB, 5 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate(9, 9 * MIB)
    assert allocator.reserved == 20 * MIB


def test_the_smallest_block_that_fits_is_taken():
    allocator = after(40 * MIB, 30 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate(2, 30 * MIB)
    allocator.allocate(3, 40 * MIB)
    assert allocator.reserved == 70 * MIB


def test_fragments_of_two_segments_do_not_add_up():
    allocator = after(20 * MIB, 20 * MIB)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate(2, 40 * MIB)
    assert (allocator.allocated, allocator.reserved) == (40 * MIB, 80 * MIB)


def test_expandable_segments_grow_instead():
    allocator = after(20 * MIB, 20 * MIB, expandable=True)
    allocator.free(0)
    allocator.free(1)
    allocator.allocate(2, 40 * MIB)
    assert (allocator.allocated, allocator.reserved) == (40 * MIB, 40 * MIB)
    allocator.allocate(3, 1 * MIB + 1)
    assert (allocator.allocated, allocator.reserved) == (41 * MIB + 512, 60 * MIB)


def test_under_pressure_free_segments_go_back():
    allocator = CachingAllocator(limit=100 * MIB)
    allocator.allocate(0, 60 * MIB)
    allocator.free(0)
    allocator.allocate(1, 80 * MIB)
    assert (allocator.reserved, allocator.short) == (80 * MIB, 0)
    allocator.allocate(2, 30 * MIB)
    assert allocator.short == 10 * MIB


EVENTS = st.lists(st.tuples(st.booleans(), st.integers(1, 64 * MIB)), max_size=60)


@given(EVENTS, st.booleans())
def test_what_is_held_is_never_less_than_what_is_asked_for(events, expandable):
    allocator, exact, alive = CachingAllocator(expandable=expandable), ExactAllocator(), []
    for number, (frees, bytes_) in enumerate(events):
        if frees and alive:
            gone = alive.pop(bytes_ % len(alive))
            allocator.free(gone)
            exact.free(gone)
        else:
            alive.append(number)
            allocator.allocate(number, bytes_)
            exact.allocate(number, bytes_)
        assert exact.allocated <= allocator.allocated <= allocator.reserved
        assert allocator.allocated <= exact.allocated + len(alive) * (MIB + 512)
    for number in alive:
        allocator.free(number)
    assert allocator.allocated == 0
