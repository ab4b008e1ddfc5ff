from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tuner.demo.judge import largest_jump, look, verdict
from tuner.demo.render import render
from tuner.demo.scene import random_scene

SEEDS = range(5000, 5024)
SCENES = [random_scene(seed) for seed in SEEDS]


def blurred(video: torch.Tensor) -> torch.Tensor:
    """As an autoencoder gives it back: soft edges, and noise at 32 dB."""
    kernel = torch.exp(-torch.arange(-3, 4).square() / 2.0)
    kernel = (kernel[:, None] * kernel[None]).expand(3, 1, 7, 7) / kernel.sum() ** 2
    soft = functional.conv2d(functional.pad(video, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    return (soft + 0.025 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def seen():
    return [look(render(scene, 25)) for scene in SCENES]


def right(scenes, seen) -> float:
    """Part of all verdicts that are right."""
    found = [verdict(scene, every) for scene, every in zip(scenes, seen, strict=True)]
    return sum(sum(every) for every in found) / (4 * len(found))


def test_the_renderers_own_clips_are_all_what_they_are(seen):
    assert right(SCENES, seen) >= 0.99


def test_clips_as_an_autoencoder_gives_them_back_are_too():
    some = SCENES[:8]
    assert right(some, [look(blurred(render(scene, 25))) for scene in some]) >= 0.97


def test_other_clips_are_not_what_was_asked_for(seen):
    found = [verdict(scene, seen[place - 1]) for place, scene in enumerate(SCENES)]
    for part, chance in (("colour", 0.35), ("shape", 0.5), ("motion", 0.35), ("background", 0.35)):
        assert sum(getattr(every, part) for every in found) / len(found) < chance


def test_a_clip_played_backwards_moves_the_other_way():
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    straight = [scene for scene in SCENES if len(scene.things) == 1 and scene.things[0].motion in opposite][:4]
    assert straight
    for scene in straight:
        assert look(render(scene, 25).flip(0)).things[0].motion == opposite[scene.things[0].motion]


def test_an_empty_sky_holds_no_object_and_noise_none_that_is_right():
    sky = render(SCENES[0], 1)[:, :, :4].mean((2, 3), keepdim=True).expand(9, 3, 128, 128)
    assert look(sky).things == ()
    noise = torch.rand(9, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    assert not all(verdict(SCENES[0], look(noise)))


def test_what_a_prompt_does_not_name_of_the_background_may_be_anything(seen):
    other = next(scene for scene in SCENES if scene.setting != seen[0].setting and scene.style != seen[0].style)
    assert not verdict(other, seen[0]).background
    assert not verdict(other, seen[0], names_style=False).background
    assert verdict(other, seen[0], names_setting=False, names_style=False).background


def test_a_cut_is_a_jump_and_motion_is_not():
    moving = next(scene for scene in SCENES if scene.things[0].motion == "right" and scene.style != "textured")
    video = render(moving, 25)
    assert largest_jump(video) < 3
    cut = torch.cat([video[:12], 1 - video[12:]])
    assert largest_jump(cut) > 3
