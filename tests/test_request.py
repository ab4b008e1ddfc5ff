from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tuner.errors import BadInput
from tuner.request import Request, open_picture


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"width": 130}, "a multiple of 16 from 16 to 2048 pixels"),
        ({"height": 0}, "a multiple of 16 from 16 to 2048 pixels"),
        ({"frames": 10}, "4k+1 from 1 to 49: 1, 5, 9, ... 49"),
        ({"frames": 53}, "4k+1 from 1 to 49: 1, 5, 9, ... 49"),
        ({"steps": 0}, "1 to 200 steps"),
        ({"steps": 2.5}, "a whole number"),
        ({"guidance": float("inf")}, "a finite number"),
        ({"seed": -1}, "0 to 4294967295"),
        ({"fps": 0}, "1 to 60 frames per second"),
        ({"scheduler": "magic"}, "ddim, euler, euler-a, dpm++, pndm, unipc or flow"),
        ({"prompt": "p" * 10_000}, "at most 5000 characters"),
        ({"start_image": 7}, "the path of a picture, a PIL image or a uint8 array [H, W, 3]"),
    ],
    ids=str,
)
def test_a_bad_value_is_one_line_that_names_the_field(values, allowed):
    (field,) = values
    with pytest.raises(BadInput) as raised:
        Request(**values)
    message = str(raised.value)
    assert message.startswith(f"{field}: ")
    assert message.endswith(f"allowed: {allowed}")
    assert "\n" not in message
    assert len(message) < 300


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5000))
def test_any_text_may_be_a_prompt(text):
    assert Request(prompt=text).prompt == text


def test_emoji_and_chinese_are_fine():
    assert Request(prompt="🎈 红球 ❤️").prompt == "🎈 红球 ❤️"


def test_an_empty_path_is_no_picture():
    assert Request(start_image="").start_image is None


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"start_image.*file.png.*allowed: a PNG, JPEG"):
        open_picture("start_image", path)


def test_a_truncated_picture_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInput, match=r"cut\.png"):
        open_picture("end_image", path)


def test_a_request_goes_into_json_by_the_names_of_its_pictures(tmp_path):
    request = Request(start_image=tmp_path / "a.png", end_image=np.zeros((2, 2, 3), np.uint8))
    saved = request.model_dump(mode="json")
    assert saved["start_image"] == str(tmp_path / "a.png")
    assert saved["end_image"] == "picture in memory"


CLIP = np.zeros((9, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"mask": CLIP[0]}, "mask"),
        ({"strength": 0.5}, "strength"),
        ({"source_video": CLIP}, "source_video"),
        ({"source_video": CLIP[0], "strength": 0.5}, "source_video"),
        ({"source_video": CLIP, "strength": 0.5, "start_image": CLIP[0]}, "start_image"),
        ({"num_clips": 0}, "num_clips"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(values, field):
    with pytest.raises(BadInput, match=f"^{field}: "):
        Request(**values)
