"""What the text encoders learn to tell from prompts."""

from __future__ import annotations

from dataclasses import replace

import torch

from tuner.demo.reading import meanings
from tuner.demo.scene import random_scene, with_thing

TWO = next(scene for scene in map(random_scene, range(100)) if len(scene.things) == 2)


def test_what_belongs_together_is_told_apart_from_the_same_words_in_another_order():
    first, second = TWO.things
    swapped = replace(TWO, things=(replace(first, shape=second.shape), replace(second, shape=first.shape)))
    assert first.shape != second.shape
    assert not torch.equal(meanings(TWO, True, True), meanings(swapped, True, True))


def test_where_an_object_stands_is_told():
    alone = [meanings(replace(TWO, things=(thing,)), False, False) for thing in TWO.things]
    assert all(said.sum() == 3 for said in alone)
    assert meanings(TWO, False, False).sum() == 6
    assert not (meanings(TWO, False, False) * sum(alone)).any()


def test_a_background_counts_only_where_it_is_named():
    scene = with_thing(random_scene(0), colour="red")
    everything, nothing = meanings(scene, True, True), meanings(scene, False, False)
    assert everything.sum() == nothing.sum() + 2
    assert ((everything - nothing) >= 0).all()
