"""What this machine computes with, and how large its caches may be."""

from __future__ import annotations

import pytest

from tuner.errors import BadInput
from tuner.machine import Machine, card_of, check_capacity, this_machine
from tuner.settings import GIB, Settings

CARD = Machine("cuda", "NVIDIA A10", 24 * GIB)


def test_a_cache_larger_than_the_card_is_refused_with_its_size() -> None:
    with pytest.raises(BadInput) as raised:
        check_capacity(Settings(cache_capacity=100.0), CARD)
    assert str(raised.value) == "cache_capacity: 100.0 is not allowed; allowed: 0 to 24.0 GiB on this card"
    check_capacity(Settings(cache_capacity=24.0), CARD)


def test_the_default_suits_every_card_and_the_stock_engine_has_no_caches() -> None:
    small = Machine("cuda", "small", 8 * GIB)
    check_capacity(Settings(), small)
    check_capacity(Settings(cache_capacity=100.0, engine="stock"), small)
    with pytest.raises(BadInput, match=r"8\.0 GiB on this card"):
        check_capacity(Settings(cache_capacity=12.0), small)


def test_without_a_card_it_is_the_computer_that_counts() -> None:
    machine = this_machine()
    assert machine.memory_bytes > GIB
    with pytest.raises(BadInput, match=r"on this (card|computer)"):
        check_capacity(Settings(cache_capacity=1024.0))


@pytest.mark.parametrize(
    ("driver", "gib", "card"),
    [
        ("NVIDIA A10", 22.5, "a10"),
        ("Tesla T4", 15.0, "t4"),
        ("NVIDIA GeForce RTX 3060", 12.0, "rtx3060-12gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 16.0, "rtx4060ti-16gb"),
        ("Tesla V100-SXM2-16GB", 16.0, "v100-16gb"),
        ("NVIDIA A100-SXM4-40GB", 40.0, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 80.0, "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", 79.6, "h100"),
        ("NVIDIA GeForce RTX 3090 Ti", 24.0, None),
        ("NVIDIA GeForce RTX 4060 Ti", 8.0, None),
        ("NVIDIA A10G", 22.5, None),
        ("NVIDIA L40", 45.0, None),
    ],
)
def test_a_card_is_known_by_its_drivers_name_and_its_memory(driver: str, gib: float, card: str | None) -> None:
    found = card_of(Machine("cuda", driver, int(gib * GIB)))
    assert (found.name if found else None) == card


def test_without_a_card_the_table_has_the_cpu() -> None:
    found = card_of(Machine("cpu", "CPU", 8 * GIB))
    assert found is not None and found.is_cpu
