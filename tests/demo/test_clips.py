from __future__ import annotations

import itertools
import json
import resource
from pathlib import Path

import pytest
import torch

from tuner.demo.checkpoint import random_modules
from tuner.demo.clips import ClipStore
from tuner.errors import TunerError

SEED = 2**32


def store(folder: Path, seed: int = SEED, vae_seed: int = 1) -> ClipStore:
    return ClipStore(folder, random_modules(vae_seed).vae, 5, seed, torch.device("cpu"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> ClipStore:
    clips = store(tmp_path_factory.mktemp("clips"))
    clips.fill(20)
    return clips


def test_clips_go_on_where_they_were_left(filled, tmp_path):
    store(tmp_path).fill(3)
    again = store(tmp_path)
    assert len(again) == 10
    again.fill(20)
    for one, other in zip(again.sample([3, 8, 15, 19], True), filled.sample([3, 8, 15, 19], True), strict=True):
        assert one == other if isinstance(one, list) else torch.equal(one, other)


def test_clips_of_another_autoencoder_or_seed_are_made_anew(filled, tmp_path):
    store(tmp_path).fill(1)
    assert len(store(tmp_path)) == 10
    assert len(store(tmp_path, vae_seed=2)) == 0
    assert len(store(tmp_path, seed=SEED + 1)) == 0


def test_clips_of_a_world_that_changed_are_made_anew(tmp_path, monkeypatch):
    store(tmp_path).fill(1)
    monkeypatch.setattr("tuner.demo.scene._SPREAD", 0.2)
    assert len(store(tmp_path)) == 0


def test_half_of_the_clips_show_two_objects_with_and_without_pictures(filled):
    shown = [scene and len(scene.things) for scene in filled.sample(list(range(20)), True).scenes]
    assert shown == [*([1] * 6), None, None, 1, 1, *([2] * 6), None, None, 2, 2]


def test_a_picture_of_another_world_is_always_given_and_held_still(filled):
    mask = filled.sample([6, 7, 16, 17], False).inpaint[:, 0]
    assert mask[:, 0].all()
    assert not mask[:, 1:].any()
    pictures = [filled._video(number, 5) for number in (6, 7, 16, 17)]  # latents alone do not tell what they show
    assert all(torch.equal(video[0], frame) for video in pictures for frame in video)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(pictures, 2))


def test_half_of_the_clips_carry_pictures_and_those_at_the_start_are_marked(filled):
    sample = filled.sample(list(range(10)), True)
    carrying = sample.inpaint[:, 1:].abs().sum((1, 2, 3, 4)) > 0
    assert carrying.tolist() == [False] * 5 + [True] * 5
    marked = sample.inpaint[:, 0, 0].abs().sum((1, 2)) > 0
    assert marked.tolist() == [False] * 5 + [True] * 4 + [False]
    assert not filled.sample([0, 5, 8, 9], False).inpaint.any()


def test_single_pictures_carry_those_of_other_worlds_only(tmp_path):
    pictures = ClipStore(tmp_path, random_modules(1).vae, 1, SEED, torch.device("cpu"))
    pictures.fill(20)
    sample = pictures.sample(list(range(20)), True)
    assert sample.latents.shape == (20, 16, 1, 16, 16)
    carrying = sample.inpaint[:, 1:].abs().sum((1, 2, 3, 4)) > 0
    assert carrying.tolist() == [place % 10 in (6, 7) for place in range(20)]
    # What is given is the picture with a little noise on it: nearer to that picture than to any other.
    given, shown = sample.inpaint[carrying, 1:], sample.latents[carrying]
    away = torch.cdist(given.flatten(1), shown.flatten(1))
    assert away.argmin(1).tolist() == [0, 1, 2, 3]


def test_a_full_disk_stops_with_a_line_and_keeps_what_is_there(filled, tmp_path):
    store(tmp_path).fill(10)
    size = (tmp_path / "latents").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, hard))
    try:
        with pytest.raises(TunerError, match=r"^clips: latents could not be written .* is kept$"):
            store(tmp_path).fill(20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = store(tmp_path)
    assert len(again) == 10
    again.fill(20)
    assert json.loads((tmp_path / "done.json").read_text())["done"] == 20
    assert torch.equal(again.sample([15], True).latents, filled.sample([15], True).latents)
