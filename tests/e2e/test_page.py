"""The main job in a real browser: tune, generate, watch, play, take home."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Page, expect

from tests.clips import a_clip
from tuner.presets import parse_preset, read_preset

LIVE = "#live [data-run]"
QUICK = {"width": 64, "height": 64, "frames": 9, "steps": 4}
ENDED = "!['queued', 'running', 'cancelling'].includes(document.querySelector('#live [data-run]').dataset.status)"


def data(page: Page) -> dict[str, str]:
    return page.evaluate("({...document.querySelector('#live [data-run]')?.dataset})")


def fill(page: Page, **fields: object) -> None:
    for name, value in fields.items():
        box = page.locator(f"#{name} textarea, #{name} input").first
        box.fill(str(value))
        box.press("Tab")


def generate(page: Page) -> str:
    """Press Generate and wait until the page shows the new run."""
    before = data(page).get("run", "")
    page.locator("#generate").click()
    page.wait_for_function(
        "old => (document.querySelector('#live [data-run]')?.dataset.run ?? old) !== old", arg=before
    )
    return data(page)["run"]


def ended(page: Page, timeout: float = 60_000) -> str:
    page.wait_for_function(ENDED, timeout=timeout)
    return data(page)["status"]


def choose(page: Page, menu: str, text: str) -> None:
    page.locator(f"#{menu} input").click()
    page.get_by_role("option", name=text).click()


def toast(page: Page, about: str = "") -> str:
    """The newest message, or the newest one ``about`` something, closed again."""
    body = page.locator(".toast-body", has_text=about).last
    body.wait_for()
    text = body.inner_text()
    body.locator("button").first.click()
    body.wait_for(state="detached")
    return text


def drawn(page: Page, trace: int, axis: str = "x") -> list[float]:
    return page.evaluate(
        "([i, axis]) => [...document.querySelector('#live .js-plotly-plot').data[i][axis]]", [trace, axis]
    )


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def test_tune_generate_watch_play_export(page: Page, client: Client, tmp_path: Path) -> None:
    page.locator("#knob-chunk_size").get_by_text("1", exact=True).click()
    choose(page, "preset", "Demo on a CPU")
    expect(page.locator("#knob-chunk_size label.selected")).to_have_text("4")
    page.locator("#knob-chunk_size").get_by_text("8", exact=True).click()
    page.locator("#knob-batch_size").get_by_text("1", exact=True).click()
    page.locator("#knob-layout").get_by_text("chunked", exact=True).click()
    fill(page, **{"knob-cache_capacity": 4})
    fill(page, prompt="a red ball moving right", width=96, height=96, frames=25, steps=5)
    page.locator("#samples button").first.click()
    expect(page.locator("#start-image img")).to_be_visible()

    run = generate(page)
    page.wait_for_function(
        "() => { const now = document.querySelector('#live [data-run]').dataset;"
        " return now.status === 'running' && now.steps >= 1 && now.points > 0 }",
        timeout=60_000,
    )
    assert ended(page) == "done"

    expect(page.locator(f"#runs tr[data-run='{run}'] .pill")).to_have_attribute("data-status", "done")
    live = data(page)
    assert live["run"] == run
    assert int(live["points"]) >= 20
    assert int(live["steps"]) == 5
    for line in range(3):
        assert len(drawn(page, line)) == len(drawn(page, line, "y")) == int(live["points"])
    corners = page.locator("#live .js-line").first.get_attribute("d") or ""
    assert len(re.findall("[LHV]", corners)) >= 10, "the curve is on the screen"
    assert all(seconds > 0 for seconds in drawn(page, 3, "y"))
    assert re.fullmatch(r"[\d.]+ MiB", page.locator("[data-k=peak]").inner_text())

    settings = client.predict(run=run, api_name="/result")["settings"]
    chosen = {name: settings[name] for name in ("chunk_size", "batch_size", "layout", "cache_capacity")}
    assert chosen == {"chunk_size": 8, "batch_size": 1, "layout": "chunked", "cache_capacity": 4 / 1024}

    page.wait_for_function("document.querySelector('#live video').videoWidth === 96")
    page.evaluate("document.querySelector('#live video').play()")
    page.wait_for_function("document.querySelector('#live video').currentTime > 0.2")

    page.get_by_role("tab", name="Presets").click()
    with page.expect_download() as download:
        page.locator("#preset-download").click()
    preset = parse_preset(Path(download.value.path()).read_text(encoding="utf-8"))
    assert preset.settings.model_dump() == settings
    assert preset.request.given["frames"] == 25


def test_a_reload_mid_run_attaches_again_without_hole_or_duplicate(page: Page, client: Client) -> None:
    fill(page, prompt="reload", **QUICK | {"frames": 49, "steps": 30})
    run = generate(page)
    page.wait_for_function("document.querySelector('#live [data-run]').dataset.points >= 5", timeout=60_000)
    before = int(data(page)["points"])
    page.reload()
    page.wait_for_function(
        "n => document.querySelector('#live [data-run]')?.dataset.points >= n", arg=before, timeout=30_000
    )
    assert data(page)["run"] == run
    expect(page.locator("#cancel")).to_be_enabled()
    expect(page.locator("#prompt textarea")).to_have_value("reload")
    assert ended(page) == "done"
    events = client.predict(run=run, cursor=0, api_name="/status")["events"]
    assert drawn(page, 0) == [event["at"] for event in events if event["kind"] == "MemorySample"]
    assert len(drawn(page, 3)) == 30
    expect(page.locator("#cancel")).to_be_disabled()


def test_a_clip_is_shown_while_it_forms(page: Page) -> None:
    fill(page, prompt="film", **QUICK)
    generate(page)
    assert ended(page) == "done"
    fill(page, steps=100)
    generate(page)
    film = page.locator("#live .film")
    expect(film).to_be_visible(timeout=30_000)
    expect(page.locator("#live video")).to_be_hidden()
    picture = film.locator("i").evaluate("i => i.style.backgroundImage")
    width = page.evaluate(
        "async url => { const one = new Image(); one.src = url; await one.decode(); return one.naturalWidth }",
        picture.removeprefix('url("').removesuffix('")'),
    )
    assert width == 3 * 8
    page.locator("#cancel").click()
    assert ended(page) == "cancelled"
    expect(film).to_be_hidden()


def test_a_second_tab_follows_and_its_cancel_is_seen_in_the_first(page: Page, url: str) -> None:
    fill(page, prompt="two tabs", **QUICK | {"frames": 49, "steps": 200})
    run = generate(page)
    second = page.context.new_page()
    second.goto(url)
    second.wait_for_function("document.querySelector('#live [data-run]')?.dataset.steps >= 2", timeout=60_000)
    assert data(second)["run"] == run
    second.locator("#cancel").click()
    assert ended(second, timeout=8000) == "cancelled"
    page.bring_to_front()
    assert ended(page, timeout=8000) == "cancelled"


def test_a_run_asked_for_while_another_is_made_waits_and_is_shown_in_its_turn(page: Page) -> None:
    fill(page, prompt="first", **QUICK | {"frames": 49, "steps": 200})
    first = generate(page)
    fill(page, **QUICK | {"steps": 2})
    page.locator("#generate").click()
    expect(page.locator(".toast-body")).to_contain_text("one run at a time")
    assert data(page)["run"] == first
    page.locator("#cancel").click()
    page.wait_for_function(
        "id => document.querySelector('#live [data-run]').dataset.run !== id", arg=first, timeout=60_000
    )
    assert ended(page) == "done"
    assert data(page)["steps"] == "2"


def test_several_clips_have_a_number_each_and_share_batches(page: Page) -> None:
    fill(page, prompt="three", seed=7, num_clips=3, **QUICK | {"steps": 1})
    page.locator("#knob-batch_size").get_by_text("6", exact=True).click()
    run = generate(page)
    assert ended(page) == "done"
    expect(page.locator("#live [data-clip]")).to_have_text(["1", "2", "3"])
    expect(page.locator("#live .clip")).to_contain_text("Seed 7", use_inner_text=True)
    page.locator("#live [data-clip='2']").click()
    expect(page.locator("#live .clip")).to_contain_text("Seed 9", use_inner_text=True)
    video, link = page.locator("#live video"), page.locator("#live [data-k=download]")
    assert (video.get_attribute("src") or "").endswith(f"{run}/video-3.mp4")
    assert link.get_attribute("href") == video.get_attribute("src")
    assert link.get_attribute("download") == f"easyanimate-{run}-3.mp4"
    page.wait_for_function("document.querySelector('#live video').videoWidth === 64")
    expect(page.locator(f"#runs tr[data-run='{run}']")).to_contain_text("×3")
    page.reload()
    expect(page.locator("#num_clips input")).to_have_value("3")
    expect(page.locator("#knob-batch_size label.selected")).to_have_text("6")
    fill(page, num_clips=1)
    expect(page.locator("#knob-batch_size label")).to_have_text(["1", "2"])
    expect(page.locator("#knob-batch_size label.selected")).to_have_text("2")


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


def limit_the_worker(room_bytes: int) -> None:
    """Let the server's worker take no more memory than it has and a little: what a full machine does."""
    workers = [
        process for process in psutil.Process().children(recursive=True) if "spawn_main" in str(process.cmdline())
    ]
    for worker in workers:
        limit = worker.memory_info().vms + room_bytes
        worker.rlimit(resource.RLIMIT_AS, (limit, limit))
    assert workers


def test_a_run_out_of_memory_says_what_to_do_and_goes_on_at_a_click(page: Page, client: Client) -> None:
    fill(page, prompt="warm up", **QUICK | {"steps": 1})
    generate(page)
    assert ended(page) == "done"
    limit_the_worker(100 * 1024**2)
    page.locator("#knob-chunk_size").get_by_text("all", exact=True).click()
    fill(page, prompt="too large", **QUICK | {"width": 192, "height": 192})
    failed = generate(page)
    assert ended(page) == "out of memory"
    expect(page.locator("[data-k=message]")).to_contain_text("out of memory in stage decode: ")
    expect(page.locator("[data-k=message]")).to_contain_text("free; try chunk_size 8")
    offer = page.locator("#live .again")
    expect(offer.locator("button")).to_have_text("Resume with smaller settings", use_inner_text=True)
    expect(offer).to_contain_text("chunk_size 8 · from decoding: all 4 steps are done")
    offer.locator("button").click()
    page.wait_for_function("id => document.querySelector('#live [data-run]').dataset.run !== id", arg=failed)
    assert ended(page) == "done"
    expect(offer).to_be_hidden()
    assert data(page)["steps"] == "0"
    result = client.predict(run=data(page)["run"], api_name="/result")
    assert (result["settings"]["chunk_size"], result["request"]["prompt"]) == (8, "too large")
    page.wait_for_function("document.querySelector('#live video').videoWidth === 192")


def test_a_cancelled_run_is_found_again_and_goes_on_where_it_was(open_page: Callable[..., Page]) -> None:
    page = open_page(locale="zh-CN")
    fill(page, prompt="cut short", **QUICK | {"frames": 49, "steps": 40})
    cut = generate(page)
    page.wait_for_function("document.querySelector('#live [data-run]').dataset.steps >= 3", timeout=60_000)
    page.locator("#cancel").click()
    assert ended(page, timeout=8000) == "cancelled"
    page.reload()
    offer = page.locator("#live .again")
    expect(offer.locator("button")).to_have_text("继续", use_inner_text=True)
    expect(offer).to_contain_text("（共 40 步）起", use_inner_text=True)
    offer.locator("button").click()
    page.wait_for_function("id => document.querySelector('#live [data-run]').dataset.run !== id", arg=cut)
    assert ended(page) == "done"
    assert 0 < int(data(page)["steps"]) < 40
    expect(page.locator("[data-k=message]")).to_contain_text("（共 40 步）之后继续", use_inner_text=True)


def test_history_shows_a_run_again_and_gives_its_settings_back(page: Page, client: Client) -> None:
    page.locator("#knob-chunk_size").get_by_text("1", exact=True).click()
    page.locator("#samples button").first.click()
    expect(page.locator("#start-image img")).to_be_visible()
    fill(page, prompt="older", **QUICK)
    old = generate(page)
    ended(page)
    new = client.predict(prompt="newer", request=QUICK, api_name="/run")["run"]
    page.wait_for_function(
        "id => document.querySelector('#live [data-run]')?.dataset.run === id", arg=new, timeout=60_000
    )
    ended(page)
    page.locator("#start-image button[aria-label='Remove Image']").click()
    fill(page, prompt="now")
    row = page.locator(f"#runs tr[data-run='{old}']")
    row.locator("[data-do=show]").click()
    page.wait_for_function("id => document.querySelector('#live [data-run]').dataset.run === id", arg=old)
    assert f"{old}/video.mp4" in (page.locator("#live video").get_attribute("src") or "")
    row.locator("[data-do=reuse]").click()
    expect(page.locator("#prompt textarea")).to_have_value("older")
    expect(page.locator("#knob-chunk_size label.selected")).to_have_text("1")
    expect(page.locator("#start-image img")).to_be_visible()


def test_zoom_survives_new_points(page: Page) -> None:
    fill(page, prompt="zoom", **QUICK | {"frames": 49, "steps": 60})
    generate(page)
    page.wait_for_function("document.querySelector('#live [data-run]').dataset.steps >= 2", timeout=60_000)
    page.evaluate("Plotly.relayout(document.querySelector('#live .js-plotly-plot'), {'xaxis.range': [0, 1]})")
    steps = int(data(page)["steps"])
    page.wait_for_function(f"document.querySelector('#live [data-run]').dataset.steps >= {steps + 3}")
    assert page.evaluate("document.querySelector('#live .js-plotly-plot').layout.xaxis.range") == [0, 1]
    page.locator("#cancel").click()
    ended(page)


def test_another_model_moves_the_cache_slider_and_says_what_is_missing(page: Page) -> None:
    label = page.locator("#knob-cache_capacity")
    expect(label).to_contain_text("MiB")
    choose(page, "model", "EasyAnimateV5 7B")
    expect(label).to_contain_text("GiB")
    expect(page.locator("#missing")).to_contain_text("not installed")
    expect(page.locator("#width input")).to_have_value("672")
    page.locator("#generate").click()
    assert "an installed model" in toast(page)


def test_a_knob_without_use_says_why(page: Page) -> None:
    page.locator("#advanced button.label-wrap").click()
    prefetch = page.locator("#knob-prefetch")
    expect(prefetch).to_contain_text("on a CPU a copy is immediate")
    expect(prefetch.locator("input[type=range]")).to_be_disabled()
    page.locator("#knob-engine").get_by_text("stock", exact=True).click()
    expect(page.locator("#knob-layout")).to_contain_text("the stock engine ignores this knob")
    expect(page.locator("#knob-layout input").first).to_be_disabled()
    page.locator("#knob-engine").get_by_text("tuned", exact=True).click()
    expect(page.locator("#knob-layout input").first).to_be_enabled()


def test_keys_generate_and_cancel(page: Page) -> None:
    fill(page, **QUICK | {"frames": 49, "steps": 200})
    before = data(page).get("run", "")
    page.locator("#prompt textarea").fill("by key")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "old => { const now = document.querySelector('#live [data-run]')?.dataset;"
        " return now && now.run !== old && now.steps >= 1 }",
        arg=before,
        timeout=60_000,
    )
    page.keyboard.press("Escape")
    assert ended(page, timeout=8000) == "cancelled"


def test_a_chinese_browser_sees_chinese(open_page: Callable[..., Page]) -> None:
    page = open_page(locale="zh-CN")
    expect(page.locator("#generate")).to_have_text("开始生成")
    expect(page.locator("#knob-chunk_size")).to_contain_text("分块大小")
    expect(page.locator("#live .tiles")).to_contain_text("显存峰值")
    assert "Peak memory" not in page.locator("#live .tiles").inner_text()
    assert page.evaluate("document.querySelector('#live .js-plotly-plot').data[0].name") == "已分配"
    fill(page, width=130)
    page.locator("#generate").click()
    assert "宽度：不允许 130" in toast(page)


def test_a_phone_has_no_sideways_scroll_and_generate_in_reach(open_page: Callable[..., Page]) -> None:
    page = open_page(width=390, height=844)
    width: dict[str, Any] = page.evaluate("({page: document.documentElement.scrollWidth, window: innerWidth})")
    assert width["page"] <= width["window"] == 390
    expect(page.locator("#generate-top")).to_be_in_viewport()
    expect(page.locator("#prompt")).to_be_in_viewport()


def test_dark_stays_dark(page: Page) -> None:
    page.locator("#brand .theme").click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_function("document.body.classList.contains('dark')")


def test_a_run_of_a_program_is_stopped_by_a_program(client: Client) -> None:
    names = [preset["name"] for preset in client.predict(api_name="/presets")]
    assert "demo-cpu" in names
    run = client.predict(
        prompt="by program", preset="demo-cpu", request=QUICK | {"steps": 200, "frames": 49}, api_name="/run"
    )["run"]
    assert client.predict(run=run, api_name="/status")["active"]
    assert client.predict(run=run, api_name="/cancel")["status"] in ("cancelling", "cancelled")
    with pytest.raises(Exception, match="width: 130 is not allowed"):
        client.predict(prompt="x", request={"width": 130}, api_name="/run")
    for file in ("start_image", "mask", "source_video"):
        with pytest.raises(Exception, match="files come from the page"):
            client.predict(prompt="x", request={file: "/etc/passwd"}, api_name="/run")
    assert client.predict(run="gone", api_name="/result")["status"] == "unknown"
