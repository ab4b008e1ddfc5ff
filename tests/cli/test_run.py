import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
from PIL import Image

from tests.clips import a_clip
from tuner.forecast.compare import errors
from tuner.meter.events import STAGES
from tuner.presets import read_preset
from tuner.runs import Store
from tuner.runs.recorder import read_events
from tuner.settings import Settings

TINY = ("--model", "demo", "--width", 32, "--height", 32, "--frames", 5, "--steps", 2, "--set", "workers=1")


def frames_of(video: str) -> int:
    with av.open(video) as clip:
        return sum(1 for _ in clip.decode(video=0))


def test_run_makes_a_clip_and_ends_with_the_json(tuner: Callable, tmp_path: Path) -> None:
    done = tuner("run", *TINY, "--prompt", "a red ball", "--seed", 1, "--out", tmp_path / "out", "--json")
    assert done.code == 0
    report = done.json
    assert (report["status"], report["width"], report["frames"], report["fps"]) == ("done", 32, 5, 8)
    assert report["settings"] == Settings(workers=1).model_dump(mode="json")
    assert len(report["measured"]["step_seconds"]) == 2
    assert {stage["name"] for stage in report["measured"]["stages"]} <= set(STAGES)
    assert report["forecast"]["gpu"] == "cpu" and report["forecast"]["fits"]
    off = errors(report["forecast"], report["measured"])
    assert off["peak"] is not None and abs(off["peak"]) < 0.02
    assert {stage["name"] for stage in off["stages"]} == {stage["name"] for stage in report["forecast"]["stages"]}
    assert report["videos"] == [report["video"]] == [str(tmp_path / "out" / "video.mp4")]
    assert frames_of(report["video"]) == 5
    assert "denoise" in done.err and "peak" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["video.mp4"]

    store = Store(tmp_path / "home")
    record = store.get(report["run_id"])
    assert record is not None and record.status == "done" and record.measured == report["measured"]
    assert record.forecast == report["forecast"]
    assert record.video is not None and record.video.is_relative_to(tmp_path / "home")
    assert frames_of(str(record.video)) == 5
    events = read_events(store.folder(record.id))
    assert events[0]["stage"] == "load" and events[-1]["kind"] == "Finished"
    assert events[1]["at"] > 0
    store.close()


def test_a_clip_is_never_replaced_and_runs_again_as_its_own_preset(tuner: Callable, tmp_path: Path) -> None:
    first = tuner(
        "run", *TINY, "--prompt", "once", "--set", "chunk_size=1", "--out", tmp_path, "--quiet", "--json"
    )
    again = tuner("run", "--preset", first.json["video"], "--out", tmp_path, "--quiet", "--json")
    assert again.err == ""
    assert Path(again.json["video"]).name == f"{again.json['run_id']}.mp4"
    assert again.json["settings"] == first.json["settings"]
    assert read_preset(again.json["video"]).request == read_preset(first.json["video"]).request


def test_several_clips_are_numbered_and_kept_together(tuner: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "video-2.mp4").write_text("mine")
    wanted = (*TINY, "--num-clips", 2, "--seed", 5, "--out", out, "--quiet", "--json")
    report = tuner("run", *wanted).json
    first, second = report["videos"]
    assert report["video"] == first == str(out / f"{report['run_id']}.mp4")
    assert second == str(out / f"{report['run_id']}-2.mp4")
    assert (out / "video-2.mp4").read_text() == "mine"
    assert [read_preset(video).request.seed for video in (first, second)] == [5, 6]
    assert [read_preset(video).request.num_clips for video in (first, second)] == [1, 1]
    store = Store(tmp_path / "home")
    record = store.get(report["run_id"])
    assert record is not None and [video.name for video in record.videos] == ["video.mp4", "video-2.mp4"]
    assert [frames_of(str(video)) for video in record.videos] == [5, 5]
    store.close()


def test_a_clip_is_changed_where_the_mask_is_white(tuner: Callable, tmp_path: Path) -> None:
    clip = a_clip(tmp_path / "clip.webm", frames=9)
    Image.new("L", (32, 32), 255).save(tmp_path / "mask.png")
    given = ("--source-video", clip, "--mask", tmp_path / "mask.png", "--strength", 0.6)
    done = tuner("run", *TINY, *given, "--out", tmp_path, "--quiet", "--json")
    assert done.code == 0
    assert frames_of(done.json["video"]) == 5
    store = Store(tmp_path / "home")
    record = store.get(done.json["run_id"])
    assert record is not None
    kept = {name: Path(record.request[name]).name for name in ("source_video", "mask")}
    assert kept == {"source_video": "source_video.webm", "mask": "mask.png"}
    assert record.request["strength"] == 0.6
    store.close()


def test_bad_input_writes_nothing(tuner: Callable, tmp_path: Path) -> None:
    done = tuner("run", "--width", 100, "--out", tmp_path / "out", "--json")
    assert (done.code, done.out) == (2, "")
    assert "width: 100" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "home").exists()


def test_an_out_that_cannot_be_written_is_bad_input(tuner: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = tuner("run", *TINY, "--out", tmp_path / "file" / "out")
    assert done.code == 2
    assert f"--out: {tmp_path / 'file' / 'out'}" in done.err and done.err.count("\n") == 1


def test_a_history_that_cannot_be_written_is_only_a_warning(tuner: Callable, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    done = tuner("run", *TINY, "--out", tmp_path / "out", "--quiet")
    assert done.code == 0
    assert done.err.startswith("warning: ") and done.err.count("\n") == 1
    assert frames_of(str(tmp_path / "out" / "video.mp4")) == 5


def test_a_damaged_model_fails_in_one_line_and_in_the_history(tuner: Callable, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("not json")
    done = tuner("run", "--model", tmp_path / "broken", "--out", tmp_path, "--quiet", "--json")
    assert done.code == 2
    assert "model_index.json" in done.err and done.err.count("\n") == 1
    assert done.json["status"] == "failed" and done.json["video"] is None
    store = Store(tmp_path / "home")
    record = store.get(done.json["run_id"])
    assert record is not None and record.status == "failed" and record.message == done.json["message"]
    store.close()


def start(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tuner", "run", *map(str, arguments)],
        env={**os.environ, "TUNER_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_cancels_within_two_seconds_and_leaves_no_half_a_clip(tmp_path: Path) -> None:
    run = start(tmp_path, "--steps", 200, "--width", 64, "--height", 64, "--out", tmp_path / "out", "--json")
    assert run.stderr is not None
    while "denoise" not in run.stderr.readline():
        assert run.poll() is None
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = run.communicate(timeout=30)
    assert time.monotonic() - asked < 5  # two for the run, the rest for the end of the process
    assert run.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert "Traceback" not in err and err.endswith("cancelled\n")
    assert list((tmp_path / "out").iterdir()) == []
    store = Store(tmp_path / "home")
    assert [record.status for record in store.history()] == ["cancelled"]
    store.close()


def test_a_full_disk_is_one_line_and_exit_4(tuner: Callable, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        failed = tuner("run", *TINY, "--out", tmp_path / "out", "--quiet", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.code == 4
    *warnings, error = failed.err.splitlines()
    assert error.startswith("error: ") and "video.mp4" in error
    assert all(line.startswith("warning: ") for line in warnings)
    assert failed.json["status"] == "failed"
    assert list((tmp_path / "out").iterdir()) == []
