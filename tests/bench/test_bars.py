from __future__ import annotations

import pytest

from tuner.bench.bars import bars
from tuner.bench.reports import gpu_report


def row(part="denoise", way="tuned", seconds=1.0, **more):
    base = {
        "part": part, "width": 1024, "height": 1024, "frames": 49, "way": way, "status": "done",
        "seconds": seconds, "ratio": seconds, "fragmentation": 0.05, "left_bytes": 0, "uncounted_bytes": 0,
        "transfers": {"h2d_count": 0, "h2d_bytes": 0, "d2h_count": 0, "d2h_bytes": 0}, "difference": None,
    }  # fmt: skip
    return {**base, **more}


def bar(rows, name):
    return next(each for each in bars(rows) if each["name"].startswith(name))


def test_the_worst_row_decides():
    rows = [row(seconds=0.8), row(way="tuned, batch 1", seconds=1.2)]
    assert bar(rows, "resident step") == {
        "name": "resident step, time / stock", "value": 1.2, "bar": 1.0, "at_least": False, "met": False,
    }  # fmt: skip


@pytest.mark.parametrize(("streamed", "met"), [(1.04, True), (1.06, False)])
def test_streaming_is_compared_with_resident_where_there_are_tokens_enough(streamed, met):
    few = {"width": 64, "height": 64, "frames": 9}
    rows = [
        row(),
        row(way="tuned, streamed", seconds=streamed),
        row(**few),
        row(way="tuned, streamed", seconds=9, **few),
    ]
    assert bar(rows, "streamed step")["met"] is met


def test_a_difference_that_is_not_finite_is_not_met():
    assert bar([row(difference={"relative": None}, part="equality")], "difference")["met"] is False


def test_what_was_not_measured_has_no_bar():
    assert bars([{"status": "not reached", "part": "denoise", "way": "tuned"}]) == []


def test_a_decode_must_be_twice_as_fast_as_stock():
    assert bar([row(part="decode", ratio=0.5)], "decode")["met"] is True
    assert bar([row(part="decode", ratio=0.51)], "decode")["met"] is False


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_report_has_a_line_for_every_row_and_every_bar(language):
    measured = {
        **row(), "of_attainable_flops": 0.5, "peak_allocated_bytes": 2**30, "difference": {"relative": 1e-6},
    }  # fmt: skip
    failed = {**row(way="stock"), "status": "out of memory"}
    result = {
        "model": "m", "precision": "bfloat16", "date": "2026-01-31", "command": "tuner bench gpu",
        "card": {"name": "Card", "driver": "1", "cuda": "13", "limit_bytes": 24 * 2**30},
        "versions": {"torch": "2.11", "diffusers": "0.42"},
        "attainable": dict.fromkeys(
            ("flops_per_second", "h2d_pinned_bytes_per_second", "device_bytes_per_second"), 1e12
        ),
        "rows": [failed, measured], "bars": bars([measured]),
    }  # fmt: skip
    report = gpu_report(result, language)
    assert report.count("\n|") == 2 + 2 + 2 + len(result["bars"])
    assert "24.00 GiB" in report
    assert "1.0e-06" in report
