from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from tuner.demo.render import render, track
from tuner.demo.scene import COLOURS, LAST_FRAME, MOTIONS, SETTINGS, SHAPES, STYLES, random_scene, standing

TIMES = torch.arange(LAST_FRAME + 1, dtype=torch.float32)
SCENES = [random_scene(seed) for seed in range(400)]


def test_the_same_seed_is_the_same_clip_and_another_seed_another():
    assert torch.equal(render(random_scene(7), 5), render(random_scene(7), 5))
    assert not torch.equal(render(random_scene(7), 5), render(random_scene(8), 5))


def test_frames_are_the_same_wherever_a_clip_is_cut():
    scene = random_scene(3)
    assert torch.allclose(render(scene, 9)[4:], render(scene, 5, start=4), atol=1e-5)


def test_pixels_lie_between_black_and_white():
    for scene in SCENES[:20]:
        video = render(scene, 3, 64)
        assert video.shape == (3, 3, 64, 64)
        assert video.dtype == torch.float32
        assert video.min() >= 0
        assert video.max() <= 1


def test_everything_the_world_has_comes_up():
    things = [thing for scene in SCENES for thing in scene.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.motion for thing in things} == set(MOTIONS)
    assert {(scene.setting, scene.style) for scene in SCENES} == {(a, b) for a in SETTINGS for b in STYLES}
    assert {len(scene.things) for scene in SCENES} == {1, 2}


def test_objects_stay_in_the_picture_and_apart_to_the_last_frame():
    for scene in SCENES:
        paths = [track(thing, TIMES) for thing in scene.things]
        for x, y, radius in paths:
            assert float(torch.minimum(x, y).sub(radius).min()) > -0.02
            assert float(torch.maximum(x, y).add(radius).max()) < 1.02
        if len(paths) == 2:
            (x, y, radius), (x2, y2, radius2) = paths
            assert float((torch.hypot(x - x2, y - y2) - radius - radius2).min()) > 0


def test_two_objects_differ_in_colour():
    for scene in SCENES:
        assert len({thing.colour for thing in scene.things}) == len(scene.things)


def test_of_two_objects_the_first_stands_left_or_above():
    for first, second in (scene.things for scene in SCENES if len(scene.things) == 2):
        sideways = {"left", "right"} & {first.motion, second.motion}
        assert first.y < second.y if sideways else first.x < second.x
        assert standing([first.motion, second.motion]) == (("above", "below") if sideways else ("left", "right"))


def test_a_scene_has_as_many_objects_as_are_asked_for():
    for seed in range(50):
        assert [len(random_scene(seed, things).things) for things in (1, 2)] == [1, 2]
        assert random_scene(seed) in [random_scene(seed, things) for things in (1, 2)]


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_straight_motions_go_where_they_say(motion, axis, sign):
    moving = [thing for scene in SCENES for thing in scene.things if thing.motion == motion]
    for thing in moving:
        path = track(thing, TIMES)
        assert float(path[axis][-1] - path[axis][0]) * sign > 0.1
        assert float(path[1 - axis][-1] - path[1 - axis][0]) == 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_textures_are_seen_and_much_the_same_from_clip_to_clip(setting):
    skies = [
        render(replace(SCENES[0], things=(), setting=setting, style=style, seed=seed), 9)
        for style in ("textured", "gradient")
        for seed in (1, 2, 3)
    ]
    textures = [textured - sky for textured, sky in zip(skies[:3], skies[3:], strict=True)]
    seen = [float(texture.std()) for texture in textures]
    assert min(seen) > 0.015
    assert max(float((textures[0] - other).std()) for other in textures[1:]) < min(seen)


def test_drawing_keeps_ahead_of_training():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.thread_time()
        for scene in SCENES[:8]:
            render(scene, 25)
        assert 8 * 25 / (time.thread_time() - begun) > 200
    finally:
        torch.set_num_threads(threads)
