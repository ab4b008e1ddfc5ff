"""Runs in a real browser: followed from any tab, in line, cancelled, found again, and asked for by a program."""

from __future__ import annotations

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from tests.e2e.actions import QUICK, data, drawn, ended, fill, generate


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
