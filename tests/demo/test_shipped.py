"""The model in assets/demo does what its table says, on a few clips; whatever it is asked for, it draws a clip."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tuner.demo.evaluate import HELD_OUT, psnr
from tuner.demo.judge import largest_jump, look, verdict
from tuner.demo.prompts import plain_prompt
from tuner.demo.render import SIDE, render
from tuner.demo.scene import Scene, Thing, random_scene
from tuner.engine.generate import generate
from tuner.engine.preview import LatentColours
from tuner.engine.vae import VaeRunner
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.presets import SHIPPED, read_preset
from tuner.reference import DEMO, ROOT
from tuner.request import Request
from tuner.settings import Settings
from tuner.ui.words import WORDS


@pytest.fixture(scope="module")
def components() -> Components:
    return load_model("demo", device="cpu")


def clip(components: Components, **asked: object) -> torch.Tensor:
    """``[T, 3, H, W]`` in 0..1, guided as the demo's preset says."""
    guidance = read_preset(SHIPPED / "demo-cpu.toml").request.guidance
    frames = generate(Request(guidance=guidance, **asked), Settings(), components, return_frames=True).frames
    assert frames is not None
    return frames[0].permute(0, 3, 1, 2).float()


def through(components: Components, video: torch.Tensor) -> torch.Tensor:
    runner = VaeRunner(components.vae, Settings(), components.device)
    chunks = [each.clone() for each in runner.decode(runner.encode(video.transpose(0, 1)[None] * 2 - 1))]
    return ((torch.cat(chunks, dim=2)[0].transpose(0, 1) + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "my grandmother's recipe, 小狗 table",
        " ".join(["a red ball moves to the right at night"] * 60),
        "a red blue green circle square star moving left and right, standing still, at night on a sunny day",
        "🎈" * 20,
    ],
    ids=["empty", "unknown words", "500 words", "contradictory", "emoji"],
)
def test_any_prompt_gives_a_clip(components, prompt):
    frames = clip(components, prompt=prompt, width=SIDE, height=SIDE, frames=9, steps=4)
    assert frames.shape == (9, 3, SIDE, SIDE)
    assert torch.isfinite(frames).all()
    assert frames.std() > 0.03, "something is to be seen"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_new_visitor_is_offered_is_drawn(components, language):
    prompt = WORDS["first_prompt"].zh if language == "zh" else WORDS["first_prompt"].en
    frames = clip(components, prompt=prompt, width=SIDE, height=SIDE, frames=49, steps=12, seed=7)
    wanted = Scene((Thing("star", "yellow", "up", 0.5, 0.5, 0.15, 0.3, 0.0, 0.0),), "night", "plain", 0)
    assert verdict(wanted, look(frames), names_style=False) == (True, True, True, True)
    assert largest_jump(frames) < 3


def test_a_start_image_is_kept_and_gone_on_from(components):
    scene = random_scene(HELD_OUT + 2**20 + 1)
    first = render(scene, 1)
    picture = (first[0] * 255).round().byte().permute(1, 2, 0).numpy()
    asked = {"width": SIDE, "height": SIDE, "frames": 25, "steps": 8, "seed": 1}
    frames = clip(components, prompt=plain_prompt(scene, "en"), start_image=picture, **asked)
    assert psnr(frames[:1], through(components, first)) > 28


def test_a_start_image_is_right_where_the_prompt_names_another_sky(components):
    scene = random_scene(HELD_OUT + 2**20 + 2)
    first = render(scene, 1)
    picture = (first[0] * 255).round().byte().permute(1, 2, 0).numpy()
    other = replace(scene, setting="day" if scene.setting == "night" else "night")
    asked = {"width": SIDE, "height": SIDE, "frames": 25, "steps": 8, "seed": 1}
    frames = clip(components, prompt=plain_prompt(other, "en"), start_image=picture, **asked)
    assert psnr(frames[:1], through(components, first)) > 28


def test_a_photograph_is_kept_in_the_first_frame(components):
    photograph = ImageOps.fit(Image.open(ROOT / "assets" / "samples" / "chelsea.jpg"), (SIDE, SIDE))
    picture = np.array(photograph)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    asked = {"width": SIDE, "height": SIDE, "frames": 9, "steps": 6, "seed": 1}
    frames = clip(components, prompt="a cat", start_image=picture, **asked)
    assert psnr(frames[:1], through(components, pixels)) > 28


def test_a_lossy_knob_that_is_pushed_shows_and_lossless_ones_do_not(components):
    asked = Request(prompt="a red ball moving right", width=SIDE, height=SIDE, frames=9, steps=12, seed=1)
    plain, lossless, lossy = (
        generate(asked, settings, components, return_frames=True).frames
        for settings in (
            Settings(),
            Settings(chunk_size=1, batch_size=1, cache_capacity=0, layout="interleaved"),
            Settings(step_cache="first_block", step_cache_threshold=0.5),
        )
    )
    assert psnr(lossless, plain) > 60
    assert psnr(lossy, plain) < 40


def test_its_autoencoder_gives_back_what_it_has_not_seen(components):
    world = [render(random_scene(HELD_OUT + 2**10 + number), 9) for number in range(4)]
    assert np.mean([psnr(through(components, video), video) for video in world]) > 30


def test_it_ships_the_map_of_the_live_preview(components):
    assert LatentColours.load(DEMO / "vae") is not None


def test_the_table_beside_it_is_of_these_sizes():
    result = json.loads((DEMO / "evaluation.json").read_text(encoding="utf-8"))
    assert result["prompts"] == 200
    assert (result["frames"], result["steps"]) == (49, 12)
    assert len(result["sheet"]) == 24
