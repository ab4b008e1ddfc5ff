from __future__ import annotations

import pytest

from tuner.errors import BadInput
from tuner.hardware import CARDS, find_card

NAMES = "a10 l4 t4 rtx3060-12gb rtx3090 rtx4060ti-16gb rtx4090 v100-16gb a100-40gb a100-80gb l40s h100 h200 cpu"


def test_the_cards_are_those_of_the_command_line():
    assert list(CARDS) == NAMES.split()
    assert find_card("RTX4090") is CARDS["rtx4090"]


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_every_card_says_what_it_has_and_from_where(card):
    assert card.title and card.source
    assert card.bandwidth > card.transfer > 0
    assert card.is_cpu or 0 < card.usable_bytes < card.memory_bytes
    assert {"float32", "float16"} <= set(card.rates)


def test_what_a_card_cannot_compute_is_refused_with_what_it_can():
    for name in ("t4", "v100-16gb"):
        with pytest.raises(BadInput, match="float16 or float32"):
            CARDS[name].check_precision("bfloat16")
        assert CARDS[name].check_precision("auto") == "float16"
    assert "float8" not in CARDS["a10"].rates
    assert CARDS["a10"].check_precision("auto") == "bfloat16"
    assert CARDS["cpu"].check_precision("auto") == "float32"


def test_an_unknown_card_is_answered_with_the_closest():
    with pytest.raises(BadInput, match="a100-40gb"):
        find_card("a100-40")
