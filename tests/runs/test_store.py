import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tuner.errors import BadInput, TunerError
from tuner.runs.store import SCHEMA, RunRecord, Store, default_data_dir


def a_record(run_id: str = "one", status: str = "queued", **fields: object) -> RunRecord:
    return RunRecord(run_id, "2025-01-01T00:00:00+00:00", status, "demo", {"steps": 2}, {"workers": 1}, **fields)


def test_a_run_is_the_same_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = a_record(
        status="done", measured={"seconds": 1.5}, video=store.folder("one") / "video.mp4", preset="p"
    )
    store.add(record)
    store.close()
    again = Store(tmp_path)
    assert again.get("one") == record
    assert again.history() == [record]
    again.close()


def test_history_has_the_newest_first_and_latest_prefers_the_one_being_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for run_id in ("one", "two", "three"):
        store.add(a_record(run_id, "done"))
    assert [record.id for record in store.history()] == ["three", "two", "one"]
    assert [record.id for record in store.history(limit=1)] == ["three"]
    store.update(a_record("one", "running"))
    latest = store.latest()
    assert latest is not None and latest.id == "one" and latest.active
    store.close()


def test_a_run_that_nobody_knows_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("nothing") is None
    assert store.latest() is None
    store.close()


def test_a_data_directory_can_be_moved(tmp_path: Path) -> None:
    store = Store(tmp_path / "here")
    folder = store.folder("one")
    store.add(a_record(status="done", video=folder / "video.mp4"))
    store.close()
    shutil.move(tmp_path / "here", tmp_path / "there")
    store = Store(tmp_path / "there")
    moved = store.get("one")
    assert moved is not None and moved.video == tmp_path / "there" / "runs" / "one" / "video.mp4"
    store.close()


def test_a_clip_outside_of_the_data_directory_stays_where_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    store.add(a_record(status="done", video=tmp_path / "clips" / "video.mp4"))
    record = store.get("one")
    assert record is not None and record.video == tmp_path / "clips" / "video.mp4"
    store.close()


def test_the_clips_of_a_run_are_those_that_are_there(tmp_path: Path) -> None:
    for name in ("video.mp4", "video-3.mp4", "video-4.mp4"):
        (tmp_path / name).touch()
    record = replace(a_record(video=tmp_path / "video.mp4"), request={"num_clips": 3})
    assert [video.name for video in record.videos] == ["video.mp4", "video-3.mp4"]
    assert replace(record, request={}).videos == [tmp_path / "video.mp4"]
    assert replace(record, video=None).videos == []


@pytest.mark.parametrize("status", ["queued", "running", "cancelling"])
def test_a_run_whose_program_died_has_crashed(tmp_path: Path, status: str) -> None:
    script = (
        "import sys, os; from tuner.runs.store import RunRecord, Store;"
        "Store(sys.argv[1]).add(RunRecord('one', 'now', sys.argv[2], 'demo', {}, {})); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path), status], check=False, cwd=Path.cwd())
    store = Store(tmp_path)
    record = store.get("one")
    assert record is not None and record.status == "crashed" and record.message
    store.close()


def test_a_run_of_another_program_that_lives_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(a_record(status="running"))
    second = Store(tmp_path)
    record = second.get("one")
    assert record is not None and record.status == "running"
    second.close()
    store.close()


def test_a_process_id_that_was_used_again_does_not_keep_a_run_alive(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(a_record(status="running"))
    store.close()
    database = sqlite3.connect(tmp_path / "tuner.db")
    started = psutil.Process(os.getpid()).create_time() - 1000
    database.execute("UPDATE runs SET owner_started = ?", (started,))
    database.commit()
    database.close()
    store = Store(tmp_path)
    record = store.get("one")
    assert record is not None and record.status == "crashed"
    store.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="TUNER_HOME") as refusal:
        Store(tmp_path / "file" / "data")
    assert str(tmp_path / "file" / "data") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tuner.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BadInput, match="data directory"):
        Store(tmp_path)
    assert (tmp_path / "tuner.db").read_bytes() == b"no database" * 1000


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    database = sqlite3.connect(tmp_path / "tuner.db")
    database.execute("UPDATE schema SET version = ?", (SCHEMA + 1,))
    database.commit()
    database.close()
    with pytest.raises(BadInput, match="newer"):
        Store(tmp_path)


def test_a_closed_store_says_so_in_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()
    with pytest.raises(TunerError, match="cannot read"):
        store.history()


def test_tuner_home_decides_where_data_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNER_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("TUNER_HOME")
    assert default_data_dir().name == "easyanimate-tuner"


def test_a_database_of_the_first_version_gets_what_it_lacks(tmp_path: Path) -> None:
    with_run = Store(tmp_path)
    with_run.add(a_record("old"))
    with_run.close()
    database = sqlite3.connect(tmp_path / "tuner.db")
    database.execute("ALTER TABLE runs DROP COLUMN forecast")
    database.execute("UPDATE schema SET version = 1")
    database.commit()
    database.close()
    store = Store(tmp_path)
    found = store.get("old")
    assert found is not None and found.forecast is None
    store.update(replace(found, forecast={"gpu": "cpu"}))
    again = store.get("old")
    assert again is not None and again.forecast == {"gpu": "cpu"}
    store.close()
