"""Records in, a safe table out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tuner.runs import RunRecord
from tuner.ui import history

MEASURED: dict[str, Any] = {
    "peak_allocated_bytes": 10 * 1024**3,
    "seconds": 163.4,
    "step_seconds": [9.0, 4.0, 6.0],
}
RECORD = RunRecord(
    id="20260101-120000-abc",
    created="2026-01-01T12:00:00+00:00",
    status="done",
    model="demo",
    request={"width": 128, "height": 64, "frames": 49, "steps": 12, "prompt": "a ball"},
    settings={"chunk_size": 4, "batch_size": 1, "cache_capacity": 0.5, "layout": "chunked", "engine": "tuned"},
    measured=MEASURED,
    preset="Demo on a CPU",
)


def test_a_done_run_shows_what_it_was_and_what_it_cost() -> None:
    html = history.table([RECORD])
    for shown in ("demo", "Demo on a CPU", "128×64 · 49 f · 12 st", "10.00 GiB", "2:43", "5.00 s", "512.0 MiB"):
        assert shown in html


def test_several_clips_are_counted_and_one_is_not() -> None:
    assert "st · ×3<" in history.table([replace(RECORD, request={**RECORD.request, "num_clips": 3})])
    assert "st<" in history.table([replace(RECORD, request={**RECORD.request, "num_clips": 1})])


def test_a_run_without_measurements_has_dashes() -> None:
    html = history.table([replace(RECORD, status="crashed", measured=None)])
    assert html.count("<td>–</td>") == 4
    assert 'data-status="crashed"' in html


@pytest.mark.parametrize("field", ["id", "model", "preset"])
def test_what_a_person_typed_cannot_become_markup(field: str) -> None:
    nasty = '"><script>alert(1)</script>'
    html = history.table([replace(RECORD, **{field: nasty})])
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_prompt_cannot_leave_its_attribute() -> None:
    html = history.table([replace(RECORD, request={**RECORD.request, "prompt": '" onmouseover="x'})])
    assert 'onmouseover="x' not in html


def test_the_run_on_the_page_is_marked() -> None:
    other = replace(RECORD, id="other")
    html = history.table([RECORD, other], shown="other")
    assert '<tr data-run="other" class="shown">' in html
    assert html.count('class="shown"') == 1


def test_no_runs_is_said_in_words() -> None:
    assert "No runs yet." in history.table([])


def test_the_stock_engine_has_no_knobs_to_sum_up() -> None:
    assert history.knob_summary({"engine": "stock", "chunk_size": 4}) == "stock"
    assert history.knob_summary({"chunk_size": 0, "batch_size": 2, "layout": "chunked"}).startswith("all f · ×2")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.25, "4.2 s"), (59.9, "59.9 s"), (163.4, "2:43"), (3723, "1:02:03")]
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert history.duration(seconds) == shown


def test_one_step_alone_is_its_own_mean() -> None:
    assert history.seconds_per_step({"step_seconds": [3.0]}) == 3.0
    assert history.seconds_per_step({}) is None


def test_a_run_with_a_forecast_shows_how_far_it_was_off() -> None:
    stage = {"name": "denoise", "seconds": 10.0, "peak_allocated_bytes": 10 * 1024**3}
    forecast = {"peak_allocated_bytes": 9 * 1024**3, "stages": [{**stage, "seconds": 11.0}]}
    record = replace(RECORD, measured={**MEASURED, "stages": [stage]}, forecast=forecast)
    assert "<td>−10.0 % · +10.0 %</td>" in history.table([record])
