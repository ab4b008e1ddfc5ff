import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
from PIL import Image

from tuner.errors import BadInput
from tuner.presets import read_preset
from tuner.request import Request
from tuner.runs import Registry
from tuner.runs.recorder import read_events
from tuner.runs.registry import KILL_AFTER_SECONDS
from tuner.settings import Settings

TINY = Request(prompt="a red ball", width=32, height=32, frames=5, steps=2)
LONG = TINY.replace(width=64, height=64, frames=49, steps=200)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    with Registry(tmp_path_factory.mktemp("data")) as registry:
        yield registry
    if threads is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = threads


def submit(registry: Registry, request: Request = TINY, **settings: Any) -> str:
    return registry.submit("demo", request, Settings(workers=1, **settings))


def follow(
    registry: Registry, run_id: str, until: Callable[[dict[str, Any]], bool] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """Poll as the page does, until the run is over or ``until`` an event; its status and events."""
    events: list[dict[str, Any]] = []
    for _ in range(6000):
        delta = registry.delta(run_id, len(events))
        assert delta["from"] == len(events)
        events += delta["events"]
        assert delta["next"] == len(events)
        if not delta["active"] or (until and any(until(event) for event in delta["events"])):
            return delta["status"], events
        time.sleep(0.02)
    raise AssertionError("the run did not end")


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["kind"] for event in events]


def a_step(event: dict[str, Any]) -> bool:
    return event["kind"] == "StepDone"


def test_a_run_is_made_and_told_without_hole_or_duplicate(registry: Registry) -> None:
    run_id = submit(registry, chunk_size=1)
    status, events = follow(registry, run_id)
    assert status == "done"
    assert [event["step"] for event in events if a_step(event)] == [1, 2]
    assert kinds(events)[-1] == "Finished"
    assert registry.delta(run_id, 0)["events"] == events
    assert read_events(registry.store.folder(run_id)) == events

    record = registry.get(run_id)
    assert record is not None and record.measured is not None and record.video is not None
    assert record.measured["peak_allocated_bytes"] > 0
    with av.open(str(record.video)) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 5
    assert read_preset(registry.store.folder(run_id) / "preset.toml").settings == Settings(workers=1, chunk_size=1)
    assert read_preset(record.video).settings == Settings(workers=1, chunk_size=1)


def test_the_next_run_finds_the_model_loaded(registry: Registry) -> None:
    follow(registry, submit(registry))
    pid = registry.worker_pid
    _, events = follow(registry, submit(registry))
    assert registry.worker_pid == pid
    assert "load" not in [event.get("stage") for event in events]


def test_a_decoded_clip_teaches_how_to_show_the_next_one_while_it_forms(registry: Registry) -> None:
    follow(registry, submit(registry))
    _, events = follow(registry, submit(registry))
    assert [event["step"] for event in events if event["kind"] == "Previewed"] == [1, 2]


def test_another_precision_loads_the_model_again(registry: Registry) -> None:
    status, events = follow(registry, submit(registry, precision="bfloat16"))
    assert status == "done"
    assert events[0]["kind"] == "StageStarted" and events[0]["stage"] == "load" and events[0]["at"] == 0
    assert [event["at"] for event in events if a_step(event)] > [0.0]


def test_runs_wait_in_line_and_say_where(registry: Registry) -> None:
    first, second, third, fourth = submit(registry, LONG), submit(registry), submit(registry), submit(registry)
    follow(registry, first, until=a_step)
    latest = registry.latest()
    assert latest is not None and latest.id == first
    assert [registry.delta(run, 0)["queue_position"] for run in (first, second, third, fourth)] == [0, 1, 2, 3]
    registry.cancel(second)
    assert [registry.delta(run, 0)["queue_position"] for run in (second, third, fourth)] == [0, 1, 2]
    assert registry.delta(second, 0)["status"] == "cancelled"
    assert [record.queue_position for record in registry.history(4)] == [2, 1, 0, 0]
    registry.cancel(first)
    assert follow(registry, third)[0] == "done"
    assert registry.delta(first, 0)["status"] == "cancelled"
    assert follow(registry, fourth)[0] == "done"


def test_cancel_ends_a_run_within_two_seconds_and_keeps_the_worker(registry: Registry) -> None:
    run_id = submit(registry, LONG)
    follow(registry, run_id, until=a_step)
    pid, asked = registry.worker_pid, time.monotonic()
    registry.cancel(run_id)
    status, events = follow(registry, run_id)
    assert time.monotonic() - asked < 2
    assert status == "cancelled"
    assert events[-1]["kind"] == "Failed" and events[-1]["status"] == "cancelled"
    assert follow(registry, submit(registry))[0] == "done"
    assert registry.worker_pid == pid


def test_a_killed_worker_is_a_crash_and_the_next_run_works(registry: Registry) -> None:
    run_id = submit(registry, LONG)
    follow(registry, run_id, until=a_step)
    pid = registry.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    status, events = follow(registry, run_id)
    assert status == "crashed"
    assert events[-1]["kind"] == "Failed" and "SIGKILL" in events[-1]["message"]
    assert not list(registry.store.folder(run_id).glob(".*"))
    assert follow(registry, submit(registry))[0] == "done"
    assert registry.worker_pid != pid


def test_a_worker_that_does_not_listen_is_ended(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KILL_AFTER_SECONDS <= 6
    monkeypatch.setattr("tuner.runs.registry.TERMINATE_AFTER_SECONDS", 0.5)
    monkeypatch.setattr("tuner.runs.registry.KILL_AFTER_SECONDS", 1.0)
    run_id = submit(registry, LONG)
    follow(registry, run_id, until=a_step)
    pid = registry.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # deaf to the flag and to SIGTERM
    asked = time.monotonic()
    registry.cancel(run_id)
    assert registry.delta(run_id, 0)["status"] == "cancelling"
    status, _ = follow(registry, run_id)
    assert status == "cancelled"
    assert time.monotonic() - asked < 1 + 3


def test_a_start_picture_may_vanish_while_its_run_waits(registry: Registry, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "green").save(tmp_path / "start.png")
    run_id = submit(registry, TINY.replace(start_image=str(tmp_path / "start.png")))
    (tmp_path / "start.png").unlink()
    assert follow(registry, run_id)[0] == "done"


def test_bad_input_is_refused_before_it_becomes_a_run(registry: Registry) -> None:
    before = registry.history()
    with pytest.raises(BadInput, match="demo"):
        registry.submit("dmeo", TINY, Settings())
    with pytest.raises(BadInput, match="an installed model"):
        registry.submit("easyanimate-v5-7b-inp", TINY, Settings())
    with pytest.raises(BadInput, match="end_image"):
        submit(registry, TINY.replace(end_image="/nowhere.png"))
    assert registry.history() == before


def test_what_fails_in_the_worker_is_one_line_and_the_next_run_works(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{}")
    run_id = registry.submit(str(tmp_path / "broken"), TINY, Settings())
    status, events = follow(registry, run_id)
    assert status == "failed"
    assert "broken/text_encoder/config.json" in events[-1]["message"] and "\n" not in events[-1]["message"]
    assert follow(registry, submit(registry))[0] == "done"


def test_a_folder_that_is_gone_is_named(registry: Registry) -> None:
    run_id = submit(registry, LONG.replace(frames=9, steps=20))
    follow(registry, run_id, until=a_step)
    shutil.rmtree(registry.store.folder(run_id))
    status, events = follow(registry, run_id)
    assert status == "failed"
    assert str(registry.store.folder(run_id)) in events[-1]["message"]
    assert follow(registry, submit(registry))[0] == "done"


def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_works(
    registry: Registry, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    run_id = submit(registry, LONG)
    follow(registry, run_id, until=a_step)
    with full_disk():
        status, events = follow(registry, run_id)
    assert status == "failed"
    assert "cannot write" in events[-1]["message"]
    assert newest(registry) == (run_id, "failed")
    next_id = submit(registry)
    assert follow(registry, next_id)[0] == "done"
    assert newest(registry) == (next_id, "done")


def newest(registry: Registry) -> tuple[str, str]:
    latest = registry.latest()
    assert latest is not None
    return latest.id, latest.status


def test_a_cursor_the_run_does_not_have_gives_everything(registry: Registry) -> None:
    run_id = submit(registry)
    _, events = follow(registry, run_id)
    for cursor in (10**6, -1):
        delta = registry.delta(run_id, cursor)
        assert (delta["from"], delta["events"]) == (0, events)


def test_a_run_nobody_knows_is_unknown(registry: Registry) -> None:
    unknown = {"run": "../x", "status": "unknown", "active": False, "from": 0, "next": 0, "events": []}
    assert registry.delta("../x", 5) == unknown
    assert registry.get("../x") is None
    registry.cancel("../x")


def test_history_survives_and_closing_cancels_what_goes_on(tmp_path: Path) -> None:
    with Registry(tmp_path) as registry:
        first, second = submit(registry, LONG), submit(registry)
        events = follow(registry, first, until=lambda event: event["kind"] == "StageStarted")[1]
    with Registry(tmp_path) as again:
        assert [(record.id, record.status) for record in again.history()] == [
            (second, "cancelled"),
            (first, "cancelled"),
        ]
        assert again.delta(first, 0)["events"][: len(events)] == events
        assert again.worker_pid is None


def test_the_server_needs_no_torch_and_the_worker_no_gradio() -> None:
    server = "import tuner.runs, tuner.cli, sys; assert not {'torch', 'diffusers', 'gradio'} & set(sys.modules)"
    worker = "import sys, tuner.runs.worker, tuner.models.load, tuner.engine; assert 'gradio' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{server}\n{worker}"], check=True)


def test_a_worker_does_not_outlive_its_server() -> None:
    script = (
        "import time; from tuner.runs.process import WorkerProcess;"
        "worker = WorkerProcess(); print(worker.pid, flush=True); time.sleep(60)"
    )
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    worker = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.communicate()
    assert not psutil.wait_procs([worker], timeout=10)[1]
