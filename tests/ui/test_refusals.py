"""A refusal is one line in the language of the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clips import a_clip
from tuner.errors import BadInput, OutOfMemory
from tuner.models.registry import find_model
from tuner.presets import parse_preset, read_preset
from tuner.request import Request, open_picture
from tuner.runs.given import check_given, clip_seconds
from tuner.settings import Settings
from tuner.ui.form import request_of
from tuner.ui.library import Library
from tuner.ui.refusals import refusal

CAUSES: dict[str, Callable[[Path], object]] = {
    "width": lambda _: Request(width=130),
    "frames": lambda _: Request(frames=10),
    "steps": lambda _: Request(steps=0),
    "fps": lambda _: Request(fps=100),
    "guidance": lambda _: Request(guidance=-1.0),
    "seed": lambda _: Request(seed=1.5),
    "no seed": lambda _: Request(seed=None),
    "prompt": lambda _: Request(prompt="x" * 10_000),
    "no guidance": lambda _: Request(guidance=None),
    "picture": lambda folder: open_picture("start_image", _file(folder, "junk.png")),
    "clips": lambda _: request_of({"num_clips": 9}),
    "clip and start": lambda _: Request(source_video="a.mp4", start_image="a.png", strength=0.5),
    "mask alone": lambda _: Request(mask="a.png"),
    "clip alone": lambda _: Request(source_video="a.mp4"),
    "no clip": lambda folder: clip_seconds(_file(folder, "junk.mp4")),
    "short clip": lambda folder: check_given(
        Request(source_video=a_clip(folder / "short.mp4", frames=3), strength=0.5, frames=9)
    ),
    "not installed": lambda _: find_model("easyanimate-v5-7b-inp").folder(),
    "no such model": lambda _: find_model("gone"),
    "no checkpoint": lambda folder: find_model(folder),
    "knob": lambda _: Settings(prefetch=9),
    "key": lambda _: parse_preset('[preset]\nname="x"\nschema=1\n[settings]\nspeed=3\n'),
    "newer": lambda _: parse_preset('[preset]\nname="x"\nschema=2\n'),
    "nonsense": lambda _: parse_preset("nonsense"),
    "clip": lambda folder: read_preset(_file(folder, "foreign.mp4")),
    "preset name": lambda folder: Library(folder).save("../x", Settings(), model="demo", gpu=""),
    "shipped name": lambda folder: Library(folder).save("demo-cpu", Settings(), model="demo", gpu=""),
}


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"nothing of use")
    return path


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path / "models"))


@pytest.mark.parametrize("cause", CAUSES)
def test_what_the_page_can_cause_is_said_in_one_line_of_either_language(cause: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        CAUSES[cause](tmp_path)
    english, chinese = refusal(caught.value, "en"), refusal(caught.value, "zh")
    assert english == str(caught.value)
    assert "\n" not in chinese
    _, _, allowed = chinese.partition("；允许：")
    assert re.search(r"[\u4e00-\u9fff]", allowed) or cause == "nonsense", chinese


def test_fields_have_their_name_on_the_page() -> None:
    with pytest.raises(BadInput) as caught:
        Request(width=130)
    assert refusal(caught.value, "zh") == "宽度：不允许 130；允许：16 到 2048 像素之间 16 的倍数"


def test_what_does_not_go_with_a_source_clip_is_said_by_its_name_on_the_page() -> None:
    with pytest.raises(BadInput) as caught:
        Request(source_video="a.mp4", start_image="a.png", strength=0.5)
    assert refusal(caught.value, "zh") == "起始图片：不允许 图片；允许：不与源视频同时给出"


def test_a_reason_without_translation_stays_as_it_is() -> None:
    assert (
        refusal(BadInput("place", "/x", "a place of wonder"), "zh")
        == "place：不允许 '/x'；允许：a place of wonder"
    )


def test_an_error_that_is_no_refusal_is_told_as_it_is() -> None:
    assert refusal(OutOfMemory("the card is full"), "zh") == "the card is full"
