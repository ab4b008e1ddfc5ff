from __future__ import annotations

from tuner.demo.prompts import plain_prompt, write_prompt
from tuner.demo.scene import Scene, Thing, random_scene
from tuner.demo.words import COLOURS, MOTIONS, SETTINGS, SHAPES, STYLES

BALL = Scene((Thing("circle", "red", "right", 0.3, 0.5, 0.15),), "night", "plain", 0)
PAIR = Scene((*BALL.things, Thing("star", "orange", "still", 0.7, 0.5, 0.15)), "sea", "textured", 0)


def test_plain_prompts_read_as_a_person_would_write_them():
    assert plain_prompt(BALL, "en") == "a red circle moving right at night on a plain background"
    assert plain_prompt(BALL, "zh") == "夜晚，一个红色的圆形向右移动，纯色背景"
    assert plain_prompt(PAIR, "en").startswith(
        "a red circle moving right and an orange star standing still in the sea"
    )


def test_the_same_seed_is_the_same_prompt_and_other_seeds_say_it_otherwise():
    assert write_prompt(BALL, "en", 5) == write_prompt(BALL, "en", 5)
    assert len({write_prompt(BALL, "en", seed).text for seed in range(100)}) > 80


def test_a_prompt_names_every_object_and_what_it_says_it_names_of_the_background():
    for seed in range(200):
        scene = random_scene(seed)
        for language in ("en", "zh"):
            prompt = write_prompt(scene, language, seed)
            text = prompt.text.lower()

            def named(words, text=text, language=language):
                return any(way in text for way in getattr(words, language))

            for thing in scene.things:
                assert named(COLOURS[thing.colour])
                assert named(SHAPES[thing.shape])
                assert named(MOTIONS[thing.motion])
            assert named(SETTINGS[scene.setting]) or not prompt.setting
            assert named(STYLES[scene.style]) or not prompt.style


def test_of_two_objects_the_first_is_named_first():
    """Where they stand is known from that alone."""
    for seed in range(200):
        text = write_prompt(PAIR, "en", seed).text.lower()
        first, second = (
            min(text.index(way) for way in COLOURS[thing.colour].en if way in text) for thing in PAIR.things
        )
        assert first < second


def test_words_come_in_any_order():
    texts = [write_prompt(BALL, "en", seed).text.lower() for seed in range(300)]
    both = [text for text in texts if "night" in text and "red" in text]
    before = [text.index("night") < text.index("red") for text in both]
    assert any(before)
    assert not all(before)
