from __future__ import annotations

from collections import OrderedDict
from functools import cache as remembered

import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.cache import ConditionCache, Feature, FeatureCache
from tuner.engine.frames import Frame
from tuner.engine.placement import Placement
from tuner.engine.weights import resident_prefix, smallest_prefix
from tuner.meter.meter import CacheCounter

UNIT = 4


def piece(units: int = 1) -> torch.Tensor:
    return torch.zeros(1, 1, units, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=40), st.integers(0, 8))
def test_conditions_are_a_byte_bounded_lru(uses, capacity):
    sizes = {key: size for key, size in reversed(uses)}
    counter = CacheCounter()
    cache = ConditionCache(capacity * UNIT, counter)
    model: OrderedDict[int, int] = OrderedDict()
    hits = 0
    for key, _ in uses:
        size = sizes[key]
        (value,) = cache.get(key, lambda size=size: (piece(size),))
        assert value.numel() == size
        if key in model:
            hits += 1
            model.move_to_end(key)
        elif size <= capacity:
            while sum(model.values()) + size > capacity:
                model.popitem(last=False)
            model[key] = size
        assert cache.held_bytes == sum(model.values()) * UNIT <= capacity * UNIT
    assert (counter.hits, counter.hits + counter.misses) == (hits, len(uses))
    assert counter.peak_bytes <= capacity * UNIT


def test_encodings_kept_on_the_host_are_no_device_bytes():
    counter, kept = CacheCounter(), OrderedDict()
    ConditionCache(100, counter, kept).get("prompt", lambda: (piece(),))
    again = ConditionCache(100, counter, kept)
    again.get("prompt", lambda: (_ for _ in ()).throw(AssertionError("made twice")))
    assert (counter.hits, counter.misses, counter.peak_bytes, again.held_bytes) == (1, 1, 0, UNIT)


def feature_misses(visits: list[int], capacity: int) -> int:
    counter = CacheCounter()
    placement = Placement("cpu")
    cache = FeatureCache(visits, capacity * UNIT, counter)
    for stage in visits:
        cache.begin_visit()
        cache.take(Feature(stage, 0))
        cache.put(Feature(stage, 0), [Frame(piece(), placement)])
        assert counter.held_bytes <= capacity * UNIT
    return counter.misses


def fewest_misses(visits: list[int], capacity: int) -> int:
    """By trying every way to keep features."""
    last = {stage: visit for visit, stage in enumerate(visits)}

    @remembered
    def fewest(visit: int, kept: frozenset[int]) -> int:
        if visit == len(visits):
            return 0
        stage = visits[visit]
        missed = int(stage in visits[:visit] and stage not in kept)
        rest = kept - {stage}
        choices = [rest | {stage}] if last[stage] > visit else [rest]
        best = fewest(visit + 1, rest)
        for choice in choices:
            if len(choice) <= capacity:
                best = min(best, fewest(visit + 1, frozenset(choice)))
            else:
                best = min([best, *(fewest(visit + 1, frozenset(choice - {out})) for out in choice)])
        return missed + best

    return fewest(0, frozenset())


@given(st.lists(st.integers(0, 3), max_size=10), st.integers(0, 3))
def test_features_miss_no_more_often_than_the_best_possible_choice(visits, capacity):
    assert feature_misses(visits, capacity) == fewest_misses(visits, capacity)


@given(st.lists(st.integers(1, 100)), st.integers(0, 500))
def test_the_resident_prefix_is_the_longest_that_fits(sizes, capacity):
    count = resident_prefix(sizes, capacity)
    assert sum(sizes[:count]) <= capacity
    assert count == len(sizes) or sum(sizes[: count + 1]) > capacity


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 80), st.integers(0, 80), st.integers(0, 8)
)
def test_more_capacity_never_takes_less_memory_and_keeps_no_fewer_blocks(sizes, one, other, prefetch):
    def held(count):
        return sum(sizes[:count]) + min(prefetch + 1, len(sizes) - count) * max(sizes[count:], default=0)

    less, more = (smallest_prefix(sizes, capacity, prefetch) for capacity in sorted((one, other)))
    assert less <= more and held(less) <= held(more)
    assert held(less) <= held(resident_prefix(sizes, min(one, other))) and held(less) <= held(len(sizes))
