import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.errors import BadInput, Cancelled, OutOfMemory, TunerError
from tuner.meter.events import Failed, Finished, StageStarted, StepDone, to_json
from tuner.presets import read_preset
from tuner.request import Request
from tuner.runs.endings import ending_of, keep_traceback
from tuner.runs.recorder import EVENTS_FILE, Recorder, read_events
from tuner.runs.resume import PRESET_FILE
from tuner.runs.store import Store
from tuner.settings import Settings

STARTED, STEP = to_json(StageStarted(0.0, "denoise")), to_json(StepDone(1.0, 1, 1, 1.0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def begin(store: Store, **request: object) -> Recorder:
    return Recorder(store, "demo", Request(**request), Settings(chunk_size=2), status="running")


def test_events_come_back_from_the_file_as_they_were_told(store: Store) -> None:
    recorder = begin(store)
    recorder.tell(STARTED)
    assert read_events(recorder.folder) == [STARTED]
    recorder.tell(STEP)
    assert read_events(recorder.folder) == [STARTED, STEP] == recorder.events


def test_since_gives_what_is_new_and_everything_to_a_cursor_it_does_not_know(store: Store) -> None:
    recorder = begin(store)
    recorder.tell(STARTED)
    recorder.tell(STEP)
    assert recorder.since(1)[1:] == (1, [STEP])
    assert recorder.since(2)[1:] == (2, [])
    assert recorder.since(3)[1:] == (0, [STARTED, STEP])
    assert recorder.since(-1)[1:] == (0, [STARTED, STEP])


def test_a_finished_run_keeps_what_was_measured_in_its_row_and_its_preset(store: Store) -> None:
    recorder = begin(store, width=64, prompt="球")
    measured = {"peak_allocated_bytes": 7, "seconds": 2.0}
    recorder.tell(to_json(Finished(2.0, measured, str(recorder.folder / "video.mp4"))))
    record = store.get(recorder.record.id)
    assert record is not None
    assert (record.status, record.measured, record.video) == ("done", measured, recorder.folder / "video.mp4")
    preset = read_preset(recorder.folder / PRESET_FILE)
    assert (preset.settings.chunk_size, preset.request.width, preset.request.prompt) == (2, 64, "球")
    assert (preset.measured.seconds, preset.measured.peak_allocated_bytes) == (2.0, 7)


def test_nothing_follows_the_end_of_a_run(store: Store) -> None:
    recorder = begin(store)
    recorder.tell(to_json(Failed(1.0, "cancelled", "cancelled")))
    recorder.tell(STEP)
    recorder.fail("crashed", "too late")
    assert len(recorder.events) == 1
    assert recorder.record.status == "cancelled"
    assert recorder.saved


def test_a_run_that_cannot_speak_ends_with_an_event_too(store: Store) -> None:
    recorder = begin(store)
    recorder.tell(STEP)
    recorder.fail("crashed", "killed")
    assert read_events(recorder.folder)[-1] == to_json(Failed(1.0, "crashed", "killed"))


def test_pictures_are_copied_so_that_history_survives_them(store: Store, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "start.jpg")
    recorder = begin(store, start_image=tmp_path / "start.jpg", end_image=np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "start.jpg").unlink()
    record = store.get(recorder.record.id)
    assert record is not None
    assert Image.open(record.request["start_image"]).size == (20, 10)
    assert Image.open(record.request["end_image"]).size == (6, 4)
    assert Path(record.request["start_image"]).parent == recorder.folder


def test_a_bad_picture_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadInput, match="start_image"):
        begin(store, start_image=tmp_path / "text.png")
    assert store.history() == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / EVENTS_FILE).write_text(json.dumps(STARTED) + "\n" + json.dumps(STEP)[:20])
    assert read_events(tmp_path) == [STARTED]
    assert read_events(tmp_path / "nowhere") == []


def test_a_full_disk_ends_the_run_with_a_line_that_names_the_file(
    store: Store, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    recorder = begin(store)
    with full_disk():
        with pytest.raises(TunerError, match=EVENTS_FILE) as refusal:
            recorder.tell(STEP)
        with pytest.raises(TunerError):
            recorder.fail("failed", str(refusal.value))
    record, _, events = recorder.since(0)
    assert not record.active
    assert EVENTS_FILE in record.message
    assert events[-1]["kind"] == "Failed"
    assert not recorder.saved


def test_a_full_disk_refuses_a_new_run_and_leaves_nothing_behind(
    store: Store, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with full_disk(), pytest.raises(TunerError) as refusal:
        begin(store)
    assert "\n" not in str(refusal.value)
    assert store.history() == []
    assert list((store.data_dir / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BadInput("width", 3, "more"), "failed", "width: 3"),
        (Cancelled("cancelled"), "cancelled", "cancelled"),
        (KeyboardInterrupt(), "cancelled", "cancelled"),
        (OutOfMemory("no room"), "out of memory", "no room"),
        (MemoryError(), "out of memory", "host"),
        (OSError(28, "No space left on device", "/data/video.mp4"), "failed", "/data/video.mp4: No space left"),
        (KeyError("two\nlines"), "failed", "internal error: KeyError"),
    ],
)
def test_every_error_has_an_ending_in_one_line(error: BaseException, status: str, message: str) -> None:
    found_status, found_message = ending_of(error)
    assert found_status == status
    assert message in found_message and "\n" not in found_message


def test_the_traceback_is_kept_for_who_wants_it(tmp_path: Path) -> None:
    keep_traceback(tmp_path, ValueError("why"))
    assert "ValueError: why" in (tmp_path / "error.log").read_text()
