"""From the form's raw values to a request, and from a draft back to the form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.errors import BadInput
from tuner.request import open_picture
from tuner.ui.drafts import drafted_fields, drafted_knobs, drafted_model, save_script
from tuner.ui.form import request_of, sample_markup, sample_pictures
from tuner.ui.knobs import cache_scale

FORM: dict[str, Any] = {
    "prompt": "a ball", "negative_prompt": "", "width": 128.0, "height": 64, "frames": 9, "fps": 8, "steps": 4,
    "guidance": 6, "seed": 1, "num_clips": 2.0, "scheduler": "", "start_image": None, "end_image": None,
}  # fmt: skip


def test_whole_numbers_may_come_as_floats_and_guidance_as_an_int() -> None:
    request = request_of(FORM)
    assert (request.width, request.guidance, request.scheduler, request.num_clips) == (128, 6.0, None, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", value) for value in (130, None)),
        *(("height", value) for value in (16.5, 0)),
        *(("prompt", value) for value in ("x" * 10_000, None)),
        ("frames", 10),
        ("steps", 0),
        ("seed", -1),
        ("guidance", None),
        ("scheduler", "best"),
        *(("num_clips", value) for value in (0, 5, 1.5, None)),
        ("mask", "mask.png"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(BadInput, match=field):
        request_of({**FORM, field: value})


def test_the_samples_are_pictures_and_each_has_a_button() -> None:
    pictures = sample_pictures()
    assert pictures
    for picture in pictures:
        assert open_picture("start_image", picture).width > 16
        assert f'data-sample="{picture.name}"' in sample_markup(pictures)


def test_a_sample_with_a_strange_name_cannot_become_markup() -> None:
    assert "<b>" not in sample_markup([Path('x"><b>.png')])


def test_a_draft_keeps_what_is_allowed_and_drops_the_rest() -> None:
    draft = {
        "prompt": "球",
        "width": 130,
        "steps": 4,
        "chunk_size": 8,
        "layout": "heap",
        "cache_capacity": 2,
        "num_clips": 3,
        "strength": 0.5,
        "source_video": "gone.mp4",
        "x": 1,
    }
    assert drafted_fields(draft) == {"prompt": "球", "steps": 4, "num_clips": 3}
    knobs = drafted_knobs(draft, cache_scale(1024**2))
    assert knobs == {"chunk_size": 8, "cache_capacity": pytest.approx(2 / 1024)}


def test_a_draft_of_a_model_that_is_gone_falls_back() -> None:
    assert drafted_model({"model": "gone"}, "demo") == "demo"
    assert drafted_model({}, "demo") == "demo"


def test_the_draft_is_an_object_by_name() -> None:
    assert save_script(["model", "prompt"]).startswith('(...values) => Object.fromEntries(["model", "prompt"]')
