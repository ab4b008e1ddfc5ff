from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.demo_sizes import BLOCKS
from tuner.bench.strategies import median_of, of_baseline, run, transfers_per_step
from tuner.errors import BadInput
from tuner.meter.events import StageStarted, StepDone, Transferred
from tuner.meter.measured import Measured

NAMES = ["stock", "chunked", "cached", "combined"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "new" / "result.json"
    run(width=128, height=128, frames=9, steps=2, repeats=2, out=out)
    return out


@pytest.fixture(scope="module")
def rows(written: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(written.read_text())["rows"]}


def test_four_strategies_are_compared(rows):
    assert list(rows) == NAMES
    assert all(len(row["seconds_of_each_run"]) == 2 for row in rows.values())


def test_none_of_them_changes_the_clip(rows):
    assert rows["stock"]["largest_difference"] == 0
    assert all(row["largest_difference"] < 1e-4 for row in rows.values())


def test_memory_is_traded_for_transfers(rows):
    chunked, cached = rows["chunked"], rows["cached"]
    assert chunked["peak_allocated_bytes"] < cached["peak_allocated_bytes"] < rows["stock"]["peak_allocated_bytes"]
    assert chunked["transfers"]["h2d_bytes"] > cached["transfers"]["h2d_bytes"]


def test_the_combined_way_copies_nothing_during_a_step(rows, written):
    assert sum(rows["combined"]["transfers_per_step"].values()) == 0
    assert rows["chunked"]["transfers_per_step"]["h2d_bytes"] > 0
    assert rows["stock"]["transfers_per_step"]["h2d_count"] == 4 * BLOCKS
    assert json.loads(written.read_text())["combined_of_stock"]["transfers_per_step_bytes"] == 0


def test_the_combined_way_takes_at_most_four_tenths_of_stocks_memory(rows):
    assert rows["combined"]["peak_allocated_bytes"] <= 0.4 * rows["stock"]["peak_allocated_bytes"]


def test_copies_of_a_step_are_those_of_the_last_one():
    events = [
        Transferred(0.0, "h2d", 9, 900),
        StageStarted(0.1, "denoise"),
        Transferred(0.2, "h2d", 5, 500),
        StepDone(0.3, 1, 2, 0.2),
        Transferred(0.4, "h2d", 2, 20),
        Transferred(0.4, "d2h", 1, 3),
        StepDone(0.5, 2, 2, 0.2),
        Transferred(0.6, "d2h", 7, 70),
    ]
    assert transfers_per_step(events) == {"h2d_count": 2, "h2d_bytes": 20, "d2h_count": 1, "d2h_bytes": 3}
    assert transfers_per_step(events[:4])["h2d_bytes"] == 500


def test_without_stock_nothing_can_be_compared_with_it():
    assert of_baseline([{"name": "stock", "status": "out of memory"}], "combined") is None


def test_none_profits_from_what_another_encoded(rows):
    # Two prompts of two encoders and one picture.
    assert all(row["cache"]["conditions"]["misses"] >= 5 for row in rows.values())


def test_the_result_says_on_what_it_was_measured(written):
    result = json.loads(written.read_text())
    assert result["machine"]["cpu"]
    assert result["machine"]["cores"] >= 1
    assert set(result["versions"]) == {"python", "torch", "diffusers", "tuner"}
    assert result["command"].startswith("tuner bench strategies --model demo --width 128")


def test_the_table_lies_beside_the_result(written):
    table = written.with_suffix(".md").read_text()
    assert all(f"| {name}" in table for name in NAMES)


@pytest.mark.parametrize("place", ["", "file/result.json", "result.md"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--out"):
        run(out=tmp_path / place)
    assert capsys.readouterr().err == ""


def test_a_median_is_taken_figure_by_figure():
    def measured(seconds: float, peak: int) -> Measured:
        return {
            "peak_allocated_bytes": peak,
            "peak_reserved_bytes": peak,
            "fragmentation": 0.0,
            "seconds": seconds,
            "step_seconds": [seconds / 2, seconds / 4],
            "stages": [{"name": "denoise", "seconds": seconds, "peak_allocated_bytes": peak}],
            "transfers": {"h2d_count": 1, "h2d_bytes": 2, "d2h_count": 3, "d2h_bytes": 4},
            "cache": {},
        }

    middle = median_of([measured(4.0, 10), measured(8.0, 30), measured(100.0, 20)])
    assert middle["seconds"] == 8.0
    assert middle["step_seconds"] == [4.0, 2.0]
    assert middle["peak_allocated_bytes"] == 20
    assert middle["stages"] == [{"name": "denoise", "seconds": 8.0, "peak_allocated_bytes": 20}]
