from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner.meter.memory import CpuMemory

FLOAT = 4


def half_of(held: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, int]:
    return held[0][: len(held[0]) // 2], held[1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["make", "view", "free", "inplace", "host"]), st.integers(1, 50)), max_size=40
    )
)
def test_allocated_is_the_bytes_of_live_storages(program):
    memory = CpuMemory()
    live: list[tuple[torch.Tensor, int]] = []  # tensor, which storage
    sizes: dict[int, int] = {}
    peak = 0
    with memory.watching():
        memory.start_peak()
        for number, (action, size) in enumerate(program):
            if action == "make":
                live.append((torch.ones(size), number))
                sizes[number] = size * FLOAT
            elif action == "host":
                with memory.host():
                    live.append((torch.ones(size), number))
                sizes[number] = 0
            elif live and action == "view":
                live.append(half_of(live[size % len(live)]))
            elif live and action == "inplace":
                live[size % len(live)][0].add_(1)
            elif live:
                live.pop(size % len(live))
            expected = sum(sizes[storage] for storage in {storage for _, storage in live})
            peak = max(peak, expected)
            assert memory.allocated == expected
        assert memory.peak() == (peak, peak)
    live.clear()
    assert memory.allocated == 0


def test_the_peak_of_an_expression_counts_what_lives_at_once():
    memory = CpuMemory()
    with memory.watching():
        memory.start_peak()
        a = torch.ones(1000)
        b = a * 2 + 1  # a, the product and the sum are alive together
    assert memory.peak()[0] == 3 * 1000 * FLOAT
    assert memory.allocated == 2 * 1000 * FLOAT
    del a, b


def test_a_sample_is_the_highest_since_the_one_before():
    memory = CpuMemory()
    with memory.watching():
        torch.ones(1000)
        assert memory.now() == (4000, 4000)
        assert memory.now() == (0, 0)


def test_tensors_from_before_are_not_counted():
    before = torch.ones(1000)
    memory = CpuMemory()
    with memory.watching():
        view = before[1:]
        view.add_(1)
        assert memory.allocated == 0
