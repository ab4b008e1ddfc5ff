"""The main job in a real browser: tune, generate, watch, play, take home; and the page for whoever sees it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradio_client import Client
from playwright.sync_api import Page, expect

from tests.e2e.actions import QUICK, choose, data, drawn, ended, fill, generate, toast
from tuner.presets import parse_preset
from tuner.ui.words import WORDS

_SETTLED_MS = 1500
"""What a page does of itself, it has done by then; it polls, so its network is not always idle."""


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


def test_a_menu_sets_the_knobs_when_something_is_chosen_and_not_when_it_is_left(page: Page) -> None:
    sent: list[str] = []
    page.on(
        "request", lambda request: sent.append(request.post_data or "") if "queue/join" in request.url else None
    )
    menu, chunks = page.locator("#preset input"), page.locator("#knob-chunk_size")
    selected = chunks.locator("label.selected")

    def leave() -> None:
        with page.expect_request("**/queue/join**"):
            menu.blur()
        page.wait_for_timeout(_SETTLED_MS)

    chunks.get_by_text("1", exact=True).click()
    choose(page, "preset", "Demo on a CPU")
    expect(selected).to_have_text("4")
    chunks.get_by_text("8", exact=True).click()
    page.wait_for_timeout(_SETTLED_MS)
    assert sum('"data":["shipped/demo-cpu"]' in data for data in sent) == 1

    menu.click()
    leave()
    expect(selected).to_have_text("8")

    choose(page, "preset", "Demo on a CPU")
    expect(selected).to_have_text("4")

    menu.focus()
    menu.press("ArrowUp")
    menu.press("Enter")
    expect(menu).not_to_have_value("Demo on a CPU")
    expect(page.locator("#missing")).to_contain_text("not installed")


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


def test_knobs_do_not_show_through_the_forecast_card(page: Page) -> None:
    page.locator("#advanced button.label-wrap").click()
    expect(page.locator("#knob-engine")).to_be_visible()
    page.locator("#knob-step_cache").scroll_into_view_if_needed()
    on_top = page.evaluate("""() => {
        const dock = document.querySelector('#dock'), card = dock.getBoundingClientRect();
        return [...document.querySelectorAll("#advanced [data-testid='block-info']")].flatMap(label => {
            const {left, top, height} = label.getBoundingClientRect(), y = top + height / 2;
            if (y <= card.top || y >= Math.min(card.bottom, innerHeight)) return [];
            return [dock.contains(document.elementFromPoint(left + 4, y))];
        });
    }""")
    assert on_top and all(on_top)


def test_a_chinese_browser_sees_chinese(open_page: Callable[..., Page]) -> None:
    page = open_page(locale="zh-CN")
    expect(page.locator("#generate")).to_have_text("开始生成")
    expect(page.locator("#prompt textarea")).to_have_value(WORDS["first_prompt"].zh)
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


def test_a_first_visit_needs_only_generate(page: Page) -> None:
    expect(page.locator("#prompt textarea")).to_have_value(WORDS["first_prompt"].en)
    fill(page, **QUICK)
    run = generate(page)
    assert ended(page) == "done"
    fill(page, prompt="something else")
    page.locator(f"#runs tr[data-run='{run}']").get_by_role("button", name="Use settings").click()
    expect(page.locator("#prompt textarea")).to_have_value(WORDS["first_prompt"].en)


def test_dark_stays_dark(page: Page) -> None:
    page.locator("#brand .theme").click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_function("document.body.classList.contains('dark')")
