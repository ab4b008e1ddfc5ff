from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuner.demo import loop
from tuner.demo.autoencoding import Autoencoding
from tuner.demo.checkpoint import random_modules
from tuner.demo.clips import ClipStore
from tuner.demo.denoising import Denoising, _weight
from tuner.demo.evaluate import Row, contact_sheet, evaluate, main, table
from tuner.demo.loop import Plan, Stopped, load_state, save_state, train
from tuner.demo.reading import Reading
from tuner.demo.recipe import TINY
from tuner.demo.render import SIDE
from tuner.demo.scene import random_scene
from tuner.demo.train import train_demo
from tuner.engine.generate import generate
from tuner.engine.preview import LatentColours
from tuner.errors import TunerError
from tuner.models.load import load_model, load_tokenizers
from tuner.request import Request
from tuner.settings import Settings, Text

CPU = torch.device("cpu")
WHAT = Text("a figure", "数值")


class Fitting:
    """A phase that learns one fixed map from seeded points."""

    name = "fitting"
    rate = 0.3

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = torch.nn.Linear(4, 4)

    def batch(self, step: int, steps: int) -> torch.Tensor:
        return torch.randn(64, 4, generator=torch.Generator().manual_seed(step))

    def losses(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()}


def stopping_after(asked: int):
    left = iter([False] * asked)
    return lambda: next(left, True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.parent.name}.{name}": each for file in files for name, each in load_file(file).items()}


def test_steps_lower_the_loss(tmp_path):
    train(Fitting(), Plan(tmp_path, 120, log_every=20))
    curve = [json.loads(line) for line in (tmp_path / "fitting.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [20, 40, 60, 80, 100, 120]
    assert curve[-1]["loss"] < curve[0]["loss"] / 10


def untrained_and_trained(phase, folder: Path, steps: int) -> tuple[float, float]:
    """Loss on one batch before and after some steps."""
    batch = phase.batch(0, steps)
    before = float(phase.losses(batch)["loss"].detach())
    train(phase, Plan(folder, steps))
    return before, float(phase.losses(batch)["loss"].detach())


def test_steps_make_the_autoencoder_better(tmp_path):
    phase = Autoencoding(random_modules().vae, TINY, CPU, seed=1)
    before, after = untrained_and_trained(phase, tmp_path, 20)
    assert after < 0.9 * before


def test_steps_make_the_transformer_better(trained, tmp_path):
    modules = random_modules()
    clips = [ClipStore(tmp_path / f"{frames}", modules.vae, frames, 2**32, CPU) for frames in TINY.frames]
    tokenizers = load_tokenizers(trained / "work", "v5")
    phase = Denoising(modules, tokenizers, clips, TINY, CPU, seed=1)
    before, after = untrained_and_trained(phase, tmp_path, 25)
    assert after < 0.85 * before


def test_what_objects_touch_counts_for_more_and_what_they_enter_or_leave_for_most():
    resting, moving = (
        next(
            scene
            for scene in map(random_scene, range(100))
            if {thing.motion for thing in scene.things} == {motion}
        )
        for motion in ("still", "right")
    )
    for scene, levels in ((resting, 2), (moving, 3)):
        weight = _weight(replace(scene, style="plain"), (5, 16, 16))
        assert float(weight.mean()) == pytest.approx(1)
        assert torch.equal(_weight(replace(scene, style="textured"), (5, 16, 16)), 3 * weight)
        assert len(weight.unique()) == levels
    assert bool((_weight(moving, (5, 16, 16))[1:] == _weight(moving, (5, 16, 16)).max()).any())
    assert _weight(None, (5, 16, 16)).unique().tolist() == [4.0]


def test_steps_make_the_text_encoders_better(trained, tmp_path):
    tokenizers = load_tokenizers(trained / "work", "v5")
    phase = Reading(random_modules(), tokenizers, replace(TINY, rate=1e-2), CPU, seed=1)
    before, after = untrained_and_trained(phase, tmp_path, 40)
    assert after < 0.7 * before


def test_the_transformer_leaves_the_text_encoders_as_they_are(trained):
    read = load_state(trained / "work" / "reading.pt")
    assert read is not None
    found = {name: weight for name, weight in read["average"].items() if "text_encoder" in name}
    components = load_model(trained / "model", device="cpu")
    for name, weight in components.text_encoder.state_dict().items():
        wanted = found[f"module.text_encoder.{name}"]
        assert torch.equal(weight, wanted.to(torch.bfloat16).to(weight.dtype)), name


def test_a_loop_interrupted_anywhere_ends_with_the_same_average(tmp_path):
    whole = train(Fitting(), Plan(tmp_path / "whole", 20, parts=2, log_every=5))
    for asked in (0, 3, 11, 1):
        with pytest.raises(Stopped):
            train(Fitting(), Plan(tmp_path / "again", 20, parts=2, log_every=5, stop=stopping_after(asked)))
    again = train(Fitting(), Plan(tmp_path / "again", 20, parts=2, log_every=5))
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    steps = [json.loads(line)["step"] for line in (tmp_path / "again" / "fitting.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20]


def test_minutes_decide_how_many_steps_once(tmp_path):
    with pytest.raises(Stopped):
        train(Fitting(), Plan(tmp_path, 10**9, minutes=1e-3, stop=stopping_after(2)))
    state = load_state(tmp_path / "fitting.pt")
    assert state is not None
    assert 10 <= state["steps"] < 10**6
    train(Fitting(), Plan(tmp_path, 10**9, minutes=50.0))
    ended = load_state(tmp_path / "fitting.pt")
    assert ended is not None
    assert ended["step"] == ended["steps"] == state["steps"]


def test_a_full_disk_stops_with_a_message_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "phase.pt"
    save_state(file, {"step": 1})

    def full(state: object, stream) -> None:
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(TunerError, match=r"phase.pt: .*No space left.*the last one is whole"):
        save_state(file, {"step": 2})
    monkeypatch.undo()
    assert load_state(file) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["phase.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "vae.pt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(TunerError, match=r"vae.pt: not a checkpoint"):
        load_state(tmp_path / "vae.pt")


def test_training_interrupted_in_every_phase_gives_the_same_model(trained, tmp_path):
    seen = []
    for _ in range(20):
        try:
            train_demo(tmp_path / "work", tmp_path / "model", TINY, CPU, stop=stopping_after(3))
        except Stopped as stopped:
            seen.append(str(stopped).partition(":")[0])
        else:
            break
    assert {"vae", "clips", "reading", "transformer"} <= set(seen)
    found, wanted = weights(tmp_path / "model"), weights(trained / "model")
    assert found.keys() == wanted.keys()
    assert [name for name in found if not torch.equal(found[name], wanted[name])] == []


def test_training_changed_every_part(trained, tmp_path):
    from tuner.demo.checkpoint import write_demo

    write_demo(tmp_path)
    before, after = weights(tmp_path), weights(trained / "model")
    for part in ("vae", "transformer", "text_encoder", "text_encoder_2"):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{part}."))


def test_what_is_written_loads_and_draws_a_clip_at_most_16_megabytes(trained):
    files = [file for file in (trained / "model").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    components = load_model(trained / "model", device="cpu")
    request = Request(prompt="一个红球", width=64, height=64, frames=5, steps=2)
    frames = generate(request, Settings(), components, return_frames=True).frames
    assert frames is not None
    assert frames.shape == (1, 5, 64, 64, 3)
    assert frames.isfinite().all()
    colours = LatentColours.load(trained / "model" / "vae")
    assert colours is not None
    assert colours.weight.shape == (3, 16)


def test_evaluating_gives_a_row_for_every_bar(trained):
    components = load_model(trained / "model", device="cpu")
    rows, shown = evaluate(components, Request(frames=5, steps=1), prompts=4, pictures=1)
    text = table([row.as_dict() for row in rows])
    for what in (
        "clips of its world",
        "photographs",
        "colour",
        "shape",
        "motion",
        "background",
        "start image",
        "jump",
        "lossless",
        "go on",
    ):
        assert what in text
    assert not all(row.met for row in rows)
    assert len({clip.prompt for clip in shown}) == 2, "each scene once"
    assert contact_sheet(shown).size == (4 * 4 * SIDE, SIDE)


def test_a_bar_is_met_from_its_own_side():
    assert Row(WHAT, 90.0, 90.0, "%").met
    assert not Row(WHAT, 89.9, 90.0, "%").met
    assert not Row(WHAT, 3.1, 3.0, "x", lower=True).met


def test_a_model_that_is_not_there_is_one_line(capsys):
    assert main(["no such model"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
