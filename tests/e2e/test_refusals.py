"""What cannot be used is told in one line in a real browser, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Page, expect

from tests.clips import a_clip
from tests.e2e.actions import QUICK, ended, fill, generate, toast


def test_bad_input_is_one_line_and_nothing_is_lost(page: Page) -> None:
    bad = {
        "width": (130, "a multiple of 16"),
        "frames": (10, "4k+1"),
        "steps": (0, "1 to 200"),
        "seed": ("", "seed"),
    }
    fill(page, prompt="kept", **QUICK)
    before = page.locator("#runs tr").count()
    for field, (value, message) in bad.items():
        right = page.locator(f"#{field} input").input_value()
        fill(page, **{field: value})
        page.locator("#generate").click()
        text = toast(page)
        assert message in text
        assert field in text
        assert "Traceback" not in text
        fill(page, **{field: right})
    expect(page.locator("#prompt textarea")).to_have_value("kept")
    assert page.locator("#runs tr").count() == before


def test_pictures_that_cannot_be_used_are_refused_at_once(page: Page, tmp_path: Path) -> None:
    huge, junk = tmp_path / "huge.png", tmp_path / "junk.png"
    Image.fromarray(np.zeros((10_000, 10_000), np.uint8)).save(huge, compress_level=1)
    junk.write_bytes(b"no picture at all")
    for path in (huge, junk):
        page.locator("#start-image input[type=file]").set_input_files(path)
        assert "at most 50 million pixels" in toast(page)
        expect(page.locator("#start-image img")).to_have_count(0)


def test_a_source_clip_is_changed_and_what_does_not_go_with_it_is_refused(
    page: Page, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"no clip at all")
    clip = a_clip(tmp_path / "clip.webm", frames=9)
    fill(page, prompt="changed", **QUICK | {"steps": 2})
    page.locator("#source-clip button.label-wrap").click()
    chosen = page.locator("#source-video input[type=file]")
    chosen.set_input_files(tmp_path / "junk.mp4")
    assert "file with a video in it" in toast(page, "source_video")
    chosen.set_input_files(clip)
    expect(page.locator("#source-video video")).to_be_visible()
    page.locator("#samples button").first.click()
    expect(page.locator("#start-image img")).to_be_visible()
    page.locator("#generate").click()
    assert "start_image: 'a picture' is not allowed; allowed: given without source_video" in toast(
        page, "start_image"
    )
    page.locator("#start-image button[aria-label='Remove Image']").click()
    run = generate(page)
    assert ended(page) == "done"
    request = client.predict(run=run, api_name="/result")["request"]
    assert Path(request["source_video"]).name == "source_video.webm"
    assert (request["strength"], request["mask"]) == (0.7, None)
