"""``tuner run --resume`` goes on with a run that ended early."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_run import TINY, frames_of, start
from tuner.runs import Store
from tuner.runs.resume import LATENTS_FILE, reached

LONG = ("--model", "demo", "--width", 64, "--height", 64, "--frames", 9, "--steps", 24, "--seed", 3)


def end_after_a_step(pid: int, home: Path, how: signal.Signals) -> None:
    """End the process ``pid`` once its run has kept some latents."""
    end = time.monotonic() + 60
    while not list(home.glob(f"runs/*/{LATENTS_FILE}")):
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(pid, how)


def test_a_cancelled_run_goes_on_and_says_how(tuner: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "green").save(tmp_path / "start.png")
    out, home = tmp_path / "out", tmp_path / "home"
    ctrl_c = threading.Thread(target=end_after_a_step, args=(os.getpid(), home, signal.SIGINT))
    ctrl_c.start()
    cut = tuner("run", *LONG, "--start-image", tmp_path / "start.png", "--out", out, "--json")
    ctrl_c.join()
    run_id = cut.json["run_id"]
    assert (cut.code, cut.json["status"]) == (130, "cancelled")
    assert f"to go on: tuner run --resume {run_id}\n" in cut.err
    kept = reached(home / "runs" / run_id)
    assert kept is not None

    (tmp_path / "start.png").unlink()
    done = tuner("run", "--resume", run_id, "--set", "chunk_size=1", "--out", out, "--json")
    assert done.code == 0
    assert f"resumed after step {kept.done} of 24" in done.err
    assert len(done.json["measured"]["step_seconds"]) == 24 - kept.done
    assert done.json["settings"]["chunk_size"] == 1
    assert (done.json["width"], done.json["frames"], done.json["suggestion"]) == (64, 9, {})
    assert frames_of(done.json["video"]) == 9

    store = Store(home)
    before, after = store.get(run_id), store.get(done.json["run_id"])
    assert before is not None and after is not None
    assert after.request["prompt"] == before.request["prompt"]
    assert Path(after.request["start_image"]).parent.name == after.id
    store.close()


def test_a_run_that_was_killed_goes_on(tuner: Callable, tmp_path: Path) -> None:
    run = start(tmp_path, *LONG, "--out", tmp_path / "out", "--quiet")
    end_after_a_step(run.pid, tmp_path / "home", signal.SIGKILL)
    run.wait(30)
    store = Store(tmp_path / "home")
    (run_id,) = (record.id for record in store.history())
    done = tuner("run", "--resume", run_id, "--out", tmp_path / "out", "--quiet", "--json")
    assert (done.code, done.json["status"]) == (0, "done")
    record = store.get(run_id)
    assert record is not None and record.status == "crashed"
    store.close()


def test_what_cannot_be_resumed_is_one_line_and_no_run(tuner: Callable, tmp_path: Path) -> None:
    done = tuner("run", *TINY, "--out", tmp_path, "--quiet", "--json")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text("not json")
    tuner("run", "--model", broken, "--out", tmp_path, "--quiet")
    store = Store(tmp_path / "home")
    (never_began, finished) = store.history()
    store.close()
    assert finished.id == done.json["run_id"]
    cases = {
        ("nobody",): "resume: 'nobody' is not allowed; allowed: the id of a run in the history",
        (finished.id,): "a run that ended early; this one is done",
        (never_began.id,): "a run that took a step; this one ended before its first",
        (
            never_began.id,
            "--prompt",
            "another",
        ): "--prompt: 'another' is not allowed; allowed: with --resume, only",
        (never_began.id, "--model", "demo"): "--model: 'demo'",
        (never_began.id, "--preset", "demo-cpu"): "--preset: 'demo-cpu'",
        (never_began.id, "--lora", "a.safetensors"): "--lora: ",
        (never_began.id, "--set", "chunk_size=3"): "chunk_size: 3",
    }
    for arguments, line in cases.items():
        refused = tuner("run", "--resume", *arguments, "--out", tmp_path, "--quiet", "--json")
        assert (refused.code, refused.out) == (2, "")
        assert line in refused.err and refused.err.count("\n") == 1
    store = Store(tmp_path / "home")
    assert store.history() == [never_began, finished]
    store.close()


def test_out_of_memory_is_exit_3_and_names_the_command_that_goes_on(
    tuner: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def exhausted(self: object, frame: object) -> None:
        torch.empty(2**50, dtype=torch.uint8)

    with monkeypatch.context() as patch:
        patch.setattr("tuner.engine.video.VideoWriter.add", exhausted)
        failed = tuner("run", *TINY, "--out", tmp_path, "--json")
    assert failed.code == 3
    report = failed.json
    assert report["status"] == "out of memory"
    assert report["message"].startswith("out of memory in stage decode: 1048576.00 GiB asked for, ")
    assert report["suggestion"] == {"chunk_size": 2}
    *_, hint, error = failed.err.splitlines()
    assert hint == f"step 2 of 2 was reached; to go on: tuner run --resume {report['run_id']} --set chunk_size=2"
    assert error == f"error: {report['message']}"
    done = tuner(*hint.split("tuner ")[1].split(), "--out", tmp_path, "--json")
    assert done.code == 0
    assert done.json["measured"]["step_seconds"] == []
    assert [stage["name"] for stage in done.json["measured"]["stages"]] == ["decode", "write"]


def test_a_cache_larger_than_the_machine_writes_nothing(tuner: Callable, tmp_path: Path) -> None:
    refused = tuner("run", *TINY, "--set", "cache_capacity=1000", "--out", tmp_path / "out", "--json")
    assert (refused.code, refused.out) == (2, "")
    assert "cache_capacity: 1000.0 is not allowed; allowed: 0 to " in refused.err
    assert not (tmp_path / "out").exists() and not (tmp_path / "home").exists()
