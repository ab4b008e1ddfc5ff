"""Both languages, everywhere."""

from __future__ import annotations

import re

import pytest

from tuner.meter.events import STAGES
from tuner.settings import KNOBS
from tuner.ui.live import markup, script_words
from tuner.ui.theme import STATIC, read
from tuner.ui.words import UNITS, WORDS, both, every_word, knob_title, word

HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("key", every_word())
def test_every_word_has_both_languages(key: str) -> None:
    text = every_word()[key]
    assert text.en.strip()
    assert not HAN.search(text.en)
    assert HAN.search(text.zh) or key == "language"


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_has_a_title_with_a_known_unit(name: str) -> None:
    assert KNOBS[name].unit in UNITS
    assert knob_title(name).en.startswith(KNOBS[name].title.en)


def test_every_word_is_said_somewhere() -> None:
    sources = [*STATIC.parent.glob("*.py"), *STATIC.glob("*.js")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path.name != "words.py")
    composed = re.compile(r"status_|stage_(?!time|peak)|short_|note_|preset_")
    silent = [key for key in WORDS if not composed.match(key) and not re.search(rf"\b{key}\b", text)]
    assert not silent


def test_an_unknown_word_is_an_error_of_ours() -> None:
    with pytest.raises(KeyError):
        word("no such word")


def test_markup_holds_both_languages_and_escapes() -> None:
    assert both("generate") == '<span lang="en">Generate</span><span lang="zh">开始生成</span>'


def test_every_word_the_live_script_says_is_given_to_it() -> None:
    script = read("live.js") + read("charts.js")
    said = set(re.findall(r"\b(?:one|two)\(\"(\w+)\"\)", script))
    assert said
    assert said <= set(script_words())


def test_every_stage_and_status_has_a_word_and_every_stage_a_colour() -> None:
    colours = read("charts.js")
    for stage in STAGES:
        assert f"stage_{stage.replace(' ', '_')}" in WORDS
        assert re.search(rf'^  "?{stage}"?: "#', colours, re.MULTILINE)
    for status in ("queued", "running", "cancelling", "done", "cancelled", "out of memory", "crashed", "failed"):
        assert f"status_{status.replace(' ', '_')}" in WORDS


def test_every_place_the_live_script_fills_is_in_the_markup() -> None:
    filled = set(re.findall(r"\b(?:put|slot)\(\"([\w-]+)\"", read("live.js")))
    places = set(re.findall(r'data-k="([\w-]+)"', markup()))
    assert filled == places


def test_nothing_of_the_page_comes_from_another_host() -> None:
    for path in STATIC.iterdir():
        assert "://" not in path.read_text(encoding="utf-8"), path.name
