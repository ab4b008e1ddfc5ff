"""What this machine computes with, and how large its caches may be."""

from __future__ import annotations

import pytest

from tuner.errors import BadInput
from tuner.machine import Machine, check_capacity, this_machine
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
