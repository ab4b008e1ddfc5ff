"""``meta`` stands for the card here: what crosses between it and the CPU would cross between host and card."""

from __future__ import annotations

import torch

from tuner.bench.copies import Copies, minus, plus

CARD = torch.device("meta")


def test_a_copy_to_the_card_is_seen_whoever_makes_it():
    with Copies() as copies:
        table = torch.zeros(10, dtype=torch.float32).to(CARD)
        table[:4].copy_(torch.ones(4))
    assert copies.counted == {"h2d_count": 2, "h2d_bytes": 40 + 16, "d2h_count": 0, "d2h_bytes": 0}


def test_what_stays_where_it_is_is_no_copy():
    with Copies() as copies:
        torch.zeros(10).clone().to(torch.float64)
        torch.empty(10, device=CARD).to(torch.bfloat16)
    assert sum(copies.counted.values()) == 0


def test_copies_add_up_and_subtract():
    one = {"h2d_count": 3, "h2d_bytes": 30, "d2h_count": 1, "d2h_bytes": 5}
    other = {"h2d_count": 1, "h2d_bytes": 10, "d2h_count": 1, "d2h_bytes": 5}
    assert minus(plus(one, other), other) == one
