"""Say what a scene shows, as different people would: in English or Chinese, in any order, with words beside it."""

from __future__ import annotations

import random
import string
from typing import Literal, NamedTuple, get_args

from tuner.demo.scene import Scene, Thing
from tuner.demo.words import COLOURS, FILLERS, MOTIONS, SETTINGS, SHAPES, STYLES, UNKNOWN, Words

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_SAYS_SETTING = 0.85
_SAYS_STYLE = 0.6
_KEYWORDS_ONLY = 0.15
_ADDS_FILLER = 0.3
_ADDS_UNKNOWN = 0.25


class Prompt(NamedTuple):
    """A prompt, and which parts of the background it names.

    Attributes:
        text: The words.
        setting: Whether it names the setting.
        style: Whether it names the style.
    """

    text: str
    setting: bool
    style: bool


def plain_prompt(scene: Scene, language: Language) -> str:
    """Everything in the plainest words: ``a red circle moving right at night on a plain background``."""
    things = [_thing(thing, language, None) for thing in scene.things]
    place, style = _plainest(SETTINGS[scene.setting], language), _plainest(STYLES[scene.style], language)
    if language == "en":
        return f"{' and '.join(things)} {place} {style}"
    return f"{place}，{'和'.join(things)}，{style}"


def write_prompt(scene: Scene, language: Language, seed: int) -> Prompt:
    """A prompt for a scene, with synonyms, free order and words that mean nothing; the same for a seed."""
    chosen = random.Random(seed)
    says_setting, says_style = chosen.random() < _SAYS_SETTING, chosen.random() < _SAYS_STYLE
    keywords = len(scene.things) == 1 and chosen.random() < _KEYWORDS_ONLY
    background = []
    if says_setting:
        background.append(_any(SETTINGS[scene.setting], language, chosen))
    if says_style:
        background.append(_any(STYLES[scene.style], language, chosen))
    things = [_thing(thing, language, chosen) for thing in scene.things]
    if keywords:
        thing = scene.things[0]
        words = SHAPES[thing.shape], COLOURS[thing.colour], MOTIONS[thing.motion]
        parts = [*(_any(word, language, chosen) for word in words), *background]
        chosen.shuffle(parts)
    else:
        parts = _arranged(things, background, language, chosen)
    if chosen.random() < _ADDS_FILLER:
        parts.insert(chosen.choice((0, len(parts))), _any(FILLERS, language, chosen))
    if chosen.random() < _ADDS_UNKNOWN:
        parts.insert(chosen.randint(0, len(parts)), _meaningless(language, chosen))
    return Prompt(_joined(parts, language, chosen), says_setting, says_style)


def _arranged(things: list[str], background: list[str], language: Language, chosen: random.Random) -> list[str]:
    subject = chosen.choice((" and ", ", ", " next to ") if language == "en" else ("和", "，", "，还有")).join(
        things
    )
    before = [part for part in background if chosen.random() < (0.3 if language == "en" else 0.7)]
    after = [part for part in background if part not in before]
    return [*before, subject, *after]


def _thing(thing: Thing, language: Language, chosen: random.Random | None) -> str:
    colour, shape, motion = (
        _any(words, language, chosen) if chosen else _plainest(words, language)
        for words in (COLOURS[thing.colour], SHAPES[thing.shape], MOTIONS[thing.motion])
    )
    article = chosen is None or chosen.random() < 0.8
    if language == "zh":
        return f"{'一个' if article else ''}{colour}{shape}{motion}"
    article_en = "an " if colour[0] in "aeiou" else "a "
    if chosen and motion.endswith("ing") and chosen.random() < 0.2:
        return f"{article_en if article else ''}{colour} {shape} is {motion}"
    return f"{article_en if article else ''}{colour} {shape} {motion}"


def _meaningless(language: Language, chosen: random.Random) -> str:
    if language == "zh" or chosen.random() < 0.6:
        return _any(UNKNOWN, language, chosen)
    return "".join(chosen.choices(string.ascii_lowercase, k=chosen.randint(3, 8)))


def _joined(parts: list[str], language: Language, chosen: random.Random) -> str:
    between = chosen.choice((" ", ", ") if language == "en" else ("", "，"))
    text = between.join(parts)
    if chosen.random() < 0.3:
        text = text[:1].upper() + text[1:]
    return text + chosen.choice(("", "", "." if language == "en" else "。"))


def _any(words: Words, language: Language, chosen: random.Random) -> str:
    ways = getattr(words, language)
    return ways[0] if chosen.random() < 0.4 else chosen.choice(ways)


def _plainest(words: Words, language: Language) -> str:
    return getattr(words, language)[0]
