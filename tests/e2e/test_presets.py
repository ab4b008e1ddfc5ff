"""Presets in a real browser: saved, described, deleted, and taken from a file or a clip."""

from __future__ import annotations

from pathlib import Path

from gradio_client import Client
from playwright.sync_api import Page, expect

from tests.e2e.actions import QUICK, fill, toast
from tuner.presets import read_preset


def test_presets_are_saved_described_and_deleted(page: Page, home: Path) -> None:
    page.get_by_role("tab", name="Presets").click()
    page.locator("#knob-chunk_size").get_by_text("32", exact=True).click()
    fill(page, **{"preset-name": "my own"})
    page.locator("#preset-save").click()
    assert "Preset saved: my own" in toast(page)
    assert read_preset(home / "presets" / "my own.toml").settings.chunk_size == 32
    expect(page.locator("#preset-text")).to_contain_text("chunk_size = 32")
    page.locator("#preset-delete").click()
    assert "Preset deleted: my own" in toast(page)
    expect(page.locator("#preset-text")).not_to_contain_text("chunk_size")
    assert not (home / "presets" / "my own.toml").exists()


def test_a_clip_brings_back_the_settings_that_made_it(page: Page, home: Path, client: Client) -> None:
    asked = client.predict(
        prompt="carried",
        settings={"chunk_size": 2, "layout": "contiguous"},
        request=QUICK | {"seed": 7},
        api_name="/run",
    )
    page.wait_for_function(
        "id => { const now = document.querySelector('#live [data-run]')?.dataset;"
        " return now?.run === id && now.status === 'done' }",
        arg=asked["run"],
        timeout=60_000,
    )
    clip = home / "runs" / asked["run"] / "video.mp4"
    assert read_preset(clip).settings.chunk_size == 2
    page.get_by_role("tab", name="Presets").click()
    page.locator("input[type=file][accept*='.toml']").first.set_input_files(clip)
    assert "Settings loaded" in toast(page)
    expect(page.locator("#knob-chunk_size label.selected")).to_have_text("2")
    expect(page.locator("#knob-layout label.selected")).to_have_text("contiguous")
    expect(page.locator("#seed input")).to_have_value("7")
    expect(page.locator("#prompt textarea")).to_have_value("carried")


def test_an_import_that_is_not_right_changes_nothing(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Presets").click()
    chosen = page.locator("#knob-chunk_size label.selected")
    page.locator("#knob-chunk_size").get_by_text("16", exact=True).click()
    texts = {
        "value.toml": '[preset]\nname="x"\nschema=1\n[settings]\nchunk_size=3\n',
        "key.toml": '[preset]\nname="x"\nschema=1\n[settings]\nspeed=3\n',
        "newer.toml": '[preset]\nname="x"\nschema=2\n',
        "nonsense.toml": "this is no toml",
        "large.toml": "#" * 70_000,
    }
    said = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        page.locator("#preset-import input[type=file], input[type=file][accept*='.toml']").first.set_input_files(
            tmp_path / name
        )
        said[name] = toast(page)
    assert "settings.chunk_size: 3 is not allowed" in said["value.toml"]
    assert "settings.speed" in said["key.toml"]
    assert "newer" in said["newer.toml"]
    assert "TOML" in said["nonsense.toml"]
    assert "64 KiB" in said["large.toml"]
    expect(chosen).to_have_text("16")
