"""What the store teaches the forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.forecast.learning import Learned
from tuner.runs.lessons import Lessons, learned_here
from tuner.runs.store import RunRecord, Store
from tuner.settings import Settings

STAGE = {"name": "decode", "seconds": 2.0, "peak_allocated_bytes": 10**6}
FORECAST = {"gpu": "cpu", "peak_allocated_bytes": 10**6, "step_seconds": [1.0], "stages": [STAGE]}


def a_record(run_id: str, factor: float, status: str = "done", **fields: Any) -> RunRecord:
    measured = {"stages": [{**STAGE, "seconds": 2.0 * factor}]}
    known = {"settings": Settings().model_dump(mode="json"), "forecast": FORECAST, "measured": measured, **fields}
    return RunRecord(run_id, "2026-01-01T00:00:00+00:00", status, "demo", {"steps": 1}, **known)


def factor_of(learned: Learned) -> float:
    found = learned.factors(FORECAST, Settings(), "demo")
    return found["stages"]["decode"]["factor"] if found else 1.0


def test_runs_that_are_done_teach_and_others_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, status in enumerate(("cancelled", "failed", "out of memory", "crashed")):
        store.add(a_record(f"run {number}", 9.0, status))
    store.add(a_record("not forecast", 9.0, forecast=None))
    store.add(a_record("of another version", 9.0, settings={"warp": 9}))
    lessons = Lessons(store)
    assert factor_of(lessons.learned()) == 1.0
    store.add(a_record("done", 1.5))
    assert factor_of(lessons.learned()) == 1.5
    store.close()


def test_the_store_is_read_again_when_it_changed_here_or_in_another_process(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    store.add(a_record("one", 1.5))
    lessons = Lessons(store)
    first = lessons.learned()
    assert lessons.learned() is first
    store.add(a_record("two", 1.5))
    second = lessons.learned()
    assert second is not first
    other.add(a_record("three", 2.5))
    assert lessons.learned() is not second
    store.close()
    other.close()


def test_asking_makes_no_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("TUNER_HOME", str(home))
    assert factor_of(learned_here()) == 1.0 and not home.exists()
    store = Store(home)
    store.add(a_record("one", 2.5))
    store.close()
    assert factor_of(learned_here()) == 2.5
