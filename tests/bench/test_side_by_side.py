from __future__ import annotations

import json

import pytest

from tests.demo_sizes import BLOCKS
from tuner.bench import transformer, vae
from tuner.errors import BadInput


@pytest.fixture(scope="module", params=[transformer, vae], ids=["transformer", "vae"])
def result(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "result.json"
    request.param.run(width=48, height=48, frames=5, rounds=2, out=out)
    return json.loads(out.read_text()), out.with_suffix(".md").read_text()


def test_stock_is_compared_with_every_tuned_way(result):
    measured, _ = result
    bench = transformer if measured["bench"] == "transformer" else vae
    assert [row["name"] for row in measured["rows"]] == ["stock", *bench.TUNED]
    assert all(len(row["seconds_of_each_round"]) == 2 for row in measured["rows"])


def test_a_ratio_is_taken_within_a_round(result):
    rows = result[0]["rows"]
    for row in rows:
        pairs = [
            one / base
            for one, base in zip(row["seconds_of_each_round"], rows[0]["seconds_of_each_round"], strict=True)
        ]
        assert min(pairs) <= row["ratio"] <= max(pairs)
        assert row["speedup"] == pytest.approx(1 / row["ratio"])
    assert result[0]["speedup"] == rows[1]["speedup"]


def test_no_tuned_way_changes_the_output(result):
    assert all(row["difference"]["relative"] < 1e-5 for row in result[0]["rows"])


def test_what_was_achieved_is_told_beside_what_is_possible(result):
    measured, table = result
    for row in measured["rows"]:
        share = row["flops_per_second"] / measured["attainable"]["flops_per_second"]
        assert row["of_attainable_flops"] == pytest.approx(share)
    assert "FLOP/s" in table
    assert "Possible here" in table


def test_it_says_why_group_offloading_is_missing(result):
    measured, table = result
    assert "group offloading" in measured["left_out"][0]
    assert measured["left_out"][0] in table


def test_the_smallest_holds_least(result):
    peaks = {row["name"]: row["peak_allocated_bytes"] for row in result[0]["rows"]}
    assert min(peaks, key=peaks.__getitem__) == "tuned, smallest"


def test_stocks_own_copies_are_those_that_a_card_would_see(result):
    measured, _ = result
    if measured["bench"] == "transformer":
        stock, resident = measured["rows"][:2]
        assert stock["transfers"]["h2d_count"] == 4 * BLOCKS
        assert resident["transfers"]["h2d_count"] == 0


@pytest.mark.parametrize("bench", [transformer, vae])
def test_a_size_that_is_not_allowed_is_refused_before_anything_runs(bench):
    with pytest.raises(BadInput, match="width"):
        bench.run(width=100)
