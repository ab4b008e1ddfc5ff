from __future__ import annotations

import math

import pytest
import torch

from tuner.bench.difference import difference, psnr


def test_a_difference_is_relative_to_the_largest_value():
    reference = torch.tensor([4.0, -8.0])
    found = difference(reference + torch.tensor([0.0, 0.5]), reference)
    assert (found.largest, found.relative, found.psnr_db) == (0.5, 0.0625, None)


def test_a_clip_off_by_one_percent_of_its_range_has_40_db():
    frames = torch.zeros(1, 3, 2, 4, 4)
    assert psnr(frames + 0.02, frames) == pytest.approx(40.0, abs=1e-3)


def test_what_a_clip_would_not_show_does_not_count():
    frames = torch.full((1, 3, 1, 2, 2), 1.5)
    assert psnr(frames + 1, frames) == 200.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_null_in_a_result(wrong):
    found = difference(torch.tensor([wrong, 0.0]), torch.ones(2)).to_json()
    assert found["largest"] is None
