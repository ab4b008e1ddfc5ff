"""A run that was cut short goes on where it was, and gives the clip it would have given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tuner
from tests.clips import a_clip
from tuner.engine.progress import Progress, request_digest
from tuner.errors import BadInput, Cancelled, OutOfMemory
from tuner.meter.events import Noticed, StageStarted, StepDone

SMALL = tuner.Request(prompt="a red ball", width=32, height=32, frames=5, steps=5, seed=5)
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "base_shift": 0.5}
SAMPLE = Path(__file__).parents[2] / "assets" / "samples" / "coffee.jpg"


def stopped_after(kind, count, components, request, path, settings=None):
    """What a run had reached that was cancelled after so many events of a kind."""
    events = []
    with pytest.raises(Cancelled):
        tuner.generate(
            request,
            settings or tuner.Settings(),
            components,
            on_event=events.append,
            keep_progress=path,
            should_stop=lambda: sum(isinstance(event, kind) for event in events) >= count,
        )
    return Progress.load(path)


def resumed(components, request, progress, **options):
    return tuner.generate(request, tuner.Settings(), components, resume=progress, return_frames=True, **options)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "euler-a", "dpm++", "pndm", "unipc", "flow"])
def test_every_scheduler_goes_on_as_if_nothing_had_been(demo, tmp_path, scheduler):
    model = replace(demo, scheduler_config=FLOW) if scheduler == "flow" else demo
    request = SMALL.replace(scheduler=scheduler, frames=1)
    path, reached = tmp_path / "latents.safetensors", []

    def look(event):
        if isinstance(event, StepDone) and event.step > 1:
            reached.append(Progress.load(path))  # the step before is kept by now

    whole = tuner.generate(request, tuner.Settings(), model, on_event=look, keep_progress=path, return_frames=True)
    for after in (1, 2, 3, 4):
        progress = reached[after - 1]
        assert progress.done == after
        rest = resumed(model, request, progress)
        assert torch.equal(rest.latents, whole.latents)
        assert torch.equal(rest.frames, whole.frames)
        assert len(rest.measured["step_seconds"]) == len(whole.measured["step_seconds"]) - after


@pytest.mark.parametrize("scheduler", ["euler-a", "unipc"])
def test_several_clips_of_a_source_go_on_too(demo, tmp_path, scheduler):
    clip = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    request = SMALL.replace(source_video=clip, strength=0.8, num_clips=2, scheduler=scheduler)
    whole = tuner.generate(request, tuner.Settings(), demo)
    progress = stopped_after(StepDone, 2, demo, request, tmp_path / "latents.safetensors")
    assert (progress.done, progress.steps) == (2, 4)
    assert torch.equal(resumed(demo, request, progress).latents, whole.latents)


def test_half_precision_goes_on_too(tmp_path):
    model = tuner.load_model("demo", tuner.Settings(precision="bfloat16"), device="cpu")
    request = SMALL.replace(scheduler="dpm++")
    whole = tuner.generate(request, tuner.Settings(), model)
    progress = stopped_after(StepDone, 3, model, request, tmp_path / "latents.safetensors")
    assert progress.latents.dtype == torch.bfloat16
    assert torch.equal(resumed(model, request, progress).latents, whole.latents)


def test_what_was_reached_in_one_precision_can_go_on_in_another(demo, tmp_path):
    request = SMALL.replace(scheduler="unipc")
    progress = stopped_after(StepDone, 2, demo, request, tmp_path / "latents.safetensors")
    model = tuner.load_model("demo", tuner.Settings(precision="bfloat16"), device="cpu")
    latents = resumed(model, request, progress).latents
    whole = tuner.generate(request, tuner.Settings(), demo).latents
    assert latents.dtype == torch.bfloat16
    assert (latents.float() - whole).abs().mean() < 0.1


def test_smaller_settings_go_on_to_the_same_clip(demo, tmp_path):
    whole = tuner.generate(SMALL, tuner.Settings(), demo, return_frames=True)
    progress = stopped_after(StepDone, 3, demo, SMALL, tmp_path / "latents.safetensors")
    smallest = tuner.Settings(
        batch_size=1, chunk_size=1, cache_capacity=0.0, prefetch=0, token_chunk=256, layout="chunked"
    )
    rest = tuner.generate(SMALL, smallest, demo, resume=progress, return_frames=True)
    assert (rest.frames - whole.frames).abs().max() < 1e-4


def test_what_failed_after_the_last_step_begins_with_decoding(demo, tmp_path):
    whole = tuner.generate(SMALL, tuner.Settings(), demo, return_frames=True)
    decoding = lambda event: isinstance(event, StageStarted) and event.stage == "decode"  # noqa: E731

    def full_at_decode(event):
        if decoding(event):
            torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(OutOfMemory) as raised:
        tuner.generate(
            SMALL, tuner.Settings(), demo, on_event=full_at_decode, keep_progress=tmp_path / "latents.safetensors"
        )
    assert raised.value.suggestion == {"chunk_size": 2}
    events = []
    rest = resumed(demo, SMALL, Progress.load(tmp_path / "latents.safetensors"), on_event=events.append)
    assert torch.equal(rest.frames, whole.frames)
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["decode"]
    assert any("5 steps done" in event.message for event in events if isinstance(event, Noticed))


def test_a_resumed_run_counts_on_and_can_be_resumed_again(demo, tmp_path):
    path = tmp_path / "latents.safetensors"
    first = stopped_after(StepDone, 1, demo, SMALL, path)
    events = []
    with pytest.raises(Cancelled):
        resumed(
            demo,
            SMALL,
            first,
            on_event=events.append,
            keep_progress=path,
            should_stop=lambda: any(isinstance(event, StepDone) for event in events),
        )
    assert [(event.step, event.steps) for event in events if isinstance(event, StepDone)] == [(2, 5)]
    assert any(event.message == "resumed after step 1 of 5" for event in events if isinstance(event, Noticed))
    second = Progress.load(path)
    assert second.done == 2
    whole = tuner.generate(SMALL, tuner.Settings(), demo)
    assert torch.equal(resumed(demo, SMALL, second).latents, whole.latents)


def test_a_step_that_was_not_ended_is_not_kept(demo, tmp_path):
    path = tmp_path / "latents.safetensors"
    with pytest.raises(Cancelled):
        tuner.generate(SMALL, tuner.Settings(), demo, keep_progress=path, should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_keeping_adds_no_copy_to_the_device(demo, tmp_path):
    plain, kept = (
        tuner.generate(SMALL, tuner.Settings(), demo, keep_progress=path).measured["transfers"]
        for path in (None, tmp_path / "latents.safetensors")
    )
    assert kept["h2d_bytes"] == plain["h2d_bytes"]
    assert kept["d2h_count"] == plain["d2h_count"] + SMALL.steps


def test_a_disk_that_takes_no_latents_is_told_once_and_the_clip_is_made(demo, tmp_path):
    events = []
    tuner.generate(
        SMALL, tuner.Settings(), demo, keep_progress=tmp_path / "gone" / "latents", on_event=events.append
    )
    told = [event.message for event in events if isinstance(event, Noticed)]
    assert len(told) == 1
    assert told[0].startswith(f"the latents are not kept: cannot write {tmp_path}")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": "a blue ball"}, "request"),
        ({"steps": 6}, "request"),
        ({"seed": 6}, "request"),
        ({"width": 48}, "request"),
        ({"start_image": SAMPLE}, "request"),
    ],
    ids=str,
)
def test_another_request_is_refused_in_one_line(demo, tmp_path, change, field):
    progress = stopped_after(StepDone, 1, demo, SMALL, tmp_path / "latents.safetensors")
    with pytest.raises(BadInput, match=f"^{field}: .* allowed: ") as raised:
        resumed(demo, SMALL.replace(**change), progress)
    assert "\n" not in str(raised.value)


def test_another_model_other_loras_and_noise_are_refused(demo, tmp_path):
    progress = stopped_after(StepDone, 1, demo, SMALL, tmp_path / "latents.safetensors")
    with pytest.raises(BadInput, match=r"^model: 'other' .* demo, with which"):
        resumed(replace(demo, name="other"), SMALL, progress)
    with pytest.raises(BadInput, match=r"^loras: 'one.safetensors' .* none, with which"):
        resumed(replace(demo, loras=((Path("one.safetensors"), 1.0),)), SMALL, progress)
    with pytest.raises(BadInput, match=r"^initial_latents: "):
        resumed(demo, SMALL, progress, initial_latents=progress.latents)


@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "other"])
def test_a_file_that_holds_no_latents_is_refused_in_one_line(demo, tmp_path, harm):
    path = tmp_path / "latents.safetensors"
    stopped_after(StepDone, 1, demo, SMALL, path)
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-100], "other": content.replace(b'"1"', b'"9"')}[harm])
    with pytest.raises(BadInput, match=r"^resume: ") as raised:
        Progress.load(path)
    assert "\n" not in str(raised.value)


def test_a_request_is_known_by_what_is_in_its_files(tmp_path):
    clip, copy = Path(a_clip(tmp_path / "one.mp4")), tmp_path / "two.mp4"
    copy.write_bytes(clip.read_bytes())
    one, two = (tuner.Request(source_video=str(path), strength=0.5) for path in (clip, copy))
    assert request_digest(one) == request_digest(two)
    copy.write_bytes(Path(a_clip(tmp_path / "three.mp4", frames=12)).read_bytes())
    assert request_digest(one) != request_digest(two)
