"""A run that ended early goes on in a new run, whoever made it and however it ended."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import tuner
from tuner.errors import BadInput
from tuner.request import Request
from tuner.runs import Registry
from tuner.runs.resume import LATENTS_FILE, Reached, reached, retry, suggested
from tuner.settings import Settings

REQUEST = Request(prompt="a red ball", width=64, height=64, frames=9, steps=30, scheduler="dpm++", seed=3)
SETTINGS = Settings(workers=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Registry(tmp_path_factory.mktemp("data")) as registry:
            yield registry


def step_of(registry: Registry, run_id: str, step: int) -> None:
    for _ in range(6000):
        delta = registry.delta(run_id, 0)
        if any(event["kind"] == "StepDone" and event["step"] >= step for event in delta["events"]):
            return
        assert delta["active"]
        time.sleep(0.02)


def ended(registry: Registry, run_id: str) -> str:
    for _ in range(6000):
        delta = registry.delta(run_id, 0)
        if not delta["active"]:
            return delta["status"]
        time.sleep(0.02)
    raise AssertionError("the run did not end")


def cut_short(registry: Registry, request: Request = REQUEST) -> str:
    """A run that was cancelled after some steps."""
    run_id = registry.submit("demo", request, SETTINGS)
    step_of(registry, run_id, 3)
    registry.cancel(run_id)
    assert ended(registry, run_id) == "cancelled"
    return run_id


def steps(registry: Registry, run_id: str) -> list[int]:
    return [event["step"] for event in registry.delta(run_id, 0)["events"] if event["kind"] == "StepDone"]


def frames_of(video: Path) -> torch.Tensor:
    import av

    with av.open(str(video)) as clip:
        return torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)])


@pytest.fixture(scope="module")
def whole(registry: Registry) -> torch.Tensor:
    run_id = registry.submit("demo", REQUEST, SETTINGS)
    assert ended(registry, run_id) == "done"
    assert not (registry.store.folder(run_id) / LATENTS_FILE).exists(), "a clip that is there needs no latents"
    record = registry.get(run_id)
    assert record is not None and record.video is not None
    return frames_of(record.video)


def assert_same_clip(registry: Registry, run_id: str, whole: torch.Tensor) -> None:
    assert ended(registry, run_id) == "done"
    record = registry.get(run_id)
    assert record is not None and record.video is not None
    assert torch.equal(frames_of(record.video), whole)


def test_a_cancelled_run_goes_on_to_the_same_clip(registry: Registry, whole: torch.Tensor) -> None:
    run_id = cut_short(registry)
    kept = reached(registry.store.folder(run_id))
    assert kept is not None and 3 <= kept.done < kept.steps == 30
    again = registry.retry(run_id)
    assert_same_clip(registry, again, whole)
    assert steps(registry, again) == list(range(kept.done + 1, 31))


def test_a_killed_worker_leaves_what_it_reached(registry: Registry, whole: torch.Tensor) -> None:
    run_id = registry.submit("demo", REQUEST, SETTINGS)
    step_of(registry, run_id, 5)
    assert registry.worker_pid is not None
    os.kill(registry.worker_pid, signal.SIGKILL)
    assert ended(registry, run_id) == "crashed"
    assert not list(registry.store.folder(run_id).glob(".*"))
    kept = reached(registry.store.folder(run_id))
    assert kept is not None and kept.done >= 4
    assert_same_clip(registry, registry.retry(run_id), whole)


def test_a_run_out_of_memory_goes_on_with_what_it_suggests(registry: Registry) -> None:
    request = REQUEST.replace(width=192, height=192, steps=1, guidance=1.0)
    warm = registry.submit("demo", request.replace(width=32, height=32, frames=1), SETTINGS)
    assert ended(registry, warm) == "done"
    assert registry.worker_pid is not None
    worker = psutil.Process(registry.worker_pid)
    room = worker.memory_info().vms + 100 * 1024**2
    worker.rlimit(resource.RLIMIT_AS, (room, room))
    run_id = registry.submit("demo", request, SETTINGS.replace(chunk_size=0, token_chunk=256))
    assert ended(registry, run_id) == "out of memory"
    end = registry.delta(run_id, 0)["events"][-1]
    assert end["message"].startswith("out of memory in stage decode: ")
    assert end["message"].endswith(" free; try chunk_size 8")
    assert end["suggestion"] == {"chunk_size": 8}
    again = registry.retry(run_id)
    assert ended(registry, again) == "done"
    assert steps(registry, again) == []
    record = registry.get(again)
    assert record is not None and record.settings["chunk_size"] == 8


def test_what_was_reached_is_handed_on_until_the_clip_is_made(registry: Registry, whole: torch.Tensor) -> None:
    first = cut_short(registry)
    blocker = registry.submit("demo", REQUEST.replace(steps=200), SETTINGS)
    second = registry.retry(first, {"chunk_size": 1})
    registry.cancel(second)
    registry.cancel(blocker)
    assert ended(registry, blocker) == ended(registry, second) == "cancelled"
    assert reached(registry.store.folder(second)) == reached(registry.store.folder(first))
    third = registry.retry(second)
    assert_same_clip(registry, third, whole)
    record = registry.get(third)
    assert record is not None and record.settings["chunk_size"] == 1


def test_a_run_that_took_no_step_begins_anew(registry: Registry) -> None:
    request = REQUEST.replace(steps=2, frames=1)
    blocker, waiting = (registry.submit("demo", request, SETTINGS) for _ in range(2))
    registry.cancel(waiting)
    assert reached(registry.store.folder(waiting)) is None
    again = registry.retry(waiting)
    assert ended(registry, blocker) == ended(registry, again) == "done"
    assert steps(registry, again) == [1, 2]


def test_what_cannot_be_resumed_is_refused_in_one_line(registry: Registry) -> None:
    done = registry.submit("demo", REQUEST.replace(steps=1, frames=1), SETTINGS)
    assert ended(registry, done) == "done"
    going_on = registry.submit("demo", REQUEST.replace(steps=200), SETTINGS)
    step_of(registry, going_on, 1)
    history = registry.history()
    for run_id, reason in (("gone", "in the history"), (done, "is done"), (going_on, "is running")):
        with pytest.raises(BadInput, match=f"^resume: '{run_id}' is not allowed; allowed: .*{reason}"):
            registry.retry(run_id)
    registry.cancel(going_on)
    assert ended(registry, going_on) == "cancelled"
    with pytest.raises(BadInput, match="chunk_size: 3"):
        registry.retry(going_on, {"chunk_size": 3})
    with pytest.raises(BadInput, match=r"cache_capacity: 1000\.0 .* on this computer"):
        registry.retry(going_on, {"cache_capacity": 1000.0})
    assert [record.id for record in registry.history()] == [record.id for record in history]


def test_latents_of_another_run_are_not_gone_on_from(registry: Registry) -> None:
    one, other = cut_short(registry), cut_short(registry, REQUEST.replace(prompt="a blue ball"))
    latents = registry.store.folder(one) / LATENTS_FILE
    (registry.store.folder(other) / LATENTS_FILE).replace(latents)
    again = registry.retry(one)
    assert ended(registry, again) == "failed"
    assert "the one that these latents were made for" in registry.delta(again, 0)["message"]


def test_a_star_says_that_the_preset_was_changed(registry: Registry) -> None:
    run_id = registry.submit("demo", REQUEST.replace(steps=1), SETTINGS, preset="mine")
    registry.cancel(run_id)
    ended(registry, run_id)
    record = registry.get(run_id)
    assert record is not None
    if record.status == "done":
        pytest.skip("it was made before it could be cancelled")
    assert retry(registry.store, run_id, {}).preset == "mine"
    assert retry(registry.store, run_id, {"chunk_size": 1}).preset == "mine *"


def test_what_is_not_there_suggests_nothing(tmp_path: Path) -> None:
    assert suggested([]) == suggested([{"kind": "StepDone"}]) == suggested([{"suggestion": None}]) == {}
    assert reached(tmp_path) is None
    (tmp_path / LATENTS_FILE).write_bytes(b"no latents")
    assert reached(tmp_path) is None


def test_how_far_a_file_goes_is_read_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    components = tuner.load_model("demo", device="cpu")
    small = REQUEST.replace(steps=2, frames=1, width=32, height=32)
    tuner.generate(small, SETTINGS, components, keep_progress=tmp_path / LATENTS_FILE)
    assert reached(tmp_path) == Reached(2, 2)
    code = (
        "import sys, pathlib; from tuner.runs.resume import reached;"
        "assert reached(pathlib.Path(sys.argv[1])).done == 2; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_twenty_runs_in_one_worker_grow_it_by_nothing(registry: Registry) -> None:
    request = REQUEST.replace(width=32, height=32, frames=5, steps=1)
    held: list[Any] = []
    pids = set()
    for seed in range(20):
        run_id = registry.submit("demo", request.replace(seed=seed), SETTINGS)
        assert ended(registry, run_id) == "done"
        assert registry.worker_pid is not None
        pids.add(registry.worker_pid)
        held.append(psutil.Process(registry.worker_pid).memory_info().rss)
    assert len(pids) == 1
    assert held[-1] - held[0] < 24 * 1024**2
