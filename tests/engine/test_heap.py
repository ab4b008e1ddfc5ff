"""Freed memory is kept while a run goes on, and given back after it."""

from __future__ import annotations

import resource
import sys

import psutil
import pytest
import torch

from tuner.engine.heap import kept_heap

CPU = torch.device("cpu")
MIB = 1024**2


def made_and_freed() -> int:
    """Page faults of 200 MiB that are used and let go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.zeros(MIB // 4) for _ in range(200)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_taken_again_without_the_system_and_given_back_at_the_end() -> None:
    with kept_heap(CPU):
        first, again = made_and_freed(), made_and_freed()
        held = psutil.Process().memory_info().rss
    assert again < 0.1 * max(first, 200 * MIB // resource.getpagesize())
    assert psutil.Process().memory_info().rss < held - 100 * MIB
