"""The forecast card in a real browser: it follows the knobs, says what to change, and is held against what was."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import median

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.actions import fill

CARD = "#forecast [data-gpu], #forecast[data-gpu]"
SMALL_CARD = "rtx3060-12gb"


def data(page: Page) -> dict[str, str]:
    return page.evaluate(f"({{...document.querySelector('{CARD}').dataset}})")


def settled(page: Page, after: int = 0, timeout: float = 60_000) -> dict[str, str]:
    """The card once it shows an answer to a question after the one numbered ``after``."""
    page.wait_for_function(
        f"n => {{ const card = document.querySelector('{CARD}');"
        " return Number(card.dataset.turn) > n && !card.classList.contains('stale') }",
        arg=after,
        timeout=timeout,
    )
    return data(page)


def turn(page: Page) -> int:
    return int(settled(page)["turn"])


def choose_chunk(page: Page, size: str) -> None:
    page.locator("#knob-chunk_size").get_by_text(size, exact=True).click()


def peak_of(page: Page, stage: int) -> float:
    text = page.locator("#forecast .row b").nth(stage).inner_text()
    value, unit = text.split()
    return float(value) * {"MiB": 1, "GiB": 1024}[unit]


def large_model(page: Page) -> None:
    before = turn(page)
    page.locator("#model input").click()
    page.get_by_role("option", name="EasyAnimateV5 7B").first.click()
    expect(page.locator("#width input")).to_have_value("672")
    settled(page, before)


def test_the_card_follows_the_knobs_and_shows_the_newest_answer_only(page: Page) -> None:
    assert settled(page)["level"] == "ok"
    peaks = {}
    for size in ("1", "8"):
        before = turn(page)
        choose_chunk(page, size)
        settled(page, before)
        peaks[size] = peak_of(page, 3)
    assert peaks["1"] < peaks["8"]
    before = turn(page)
    for size in ("16", "all", "2", "1"):
        choose_chunk(page, size)
    settled(page, before)
    page.wait_for_timeout(1500)
    assert peak_of(page, 3) == peaks["1"]


def test_a_question_is_answered_though_one_sent_before_it_comes_after_it(page: Page) -> None:
    fill(page, width=112, height=112)
    before = turn(page)
    page.evaluate(
        """() => {
            const send = window.fetch;
            let asked = 0;
            let overtaken;
            window.fetch = async (to, how) => {
                if (!String(how?.body).includes('"forecast"')) return send(to, how);
                asked += 1;
                if (asked === 1) await new Promise((resolve) => { overtaken = resolve; });
                if (asked === 2) setTimeout(overtaken, 5);
                return send(to, how);
            };
        }"""
    )
    fill(page, width=144)
    page.wait_for_timeout(300)
    fill(page, height=160)
    assert settled(page, before + 1, timeout=10_000)["level"] == "ok"


def test_settings_seen_before_are_there_at_once(page: Page) -> None:
    milliseconds = []
    for again in range(3):
        for size in ("1", "8"):
            before = turn(page)
            choose_chunk(page, size)
            took = int(settled(page, before)["milliseconds"])
            if again:
                milliseconds.append(took)
    assert median(milliseconds) < 300


def test_what_does_not_fit_says_what_to_change_and_a_click_changes_it(page: Page) -> None:
    large_model(page)
    before = turn(page)
    page.locator("#forecast select").select_option(SMALL_CARD)
    assert settled(page, before)["level"] == "no"
    expect(page.locator("#forecast .verdict")).to_contain_text("does not fit")
    expect(page.locator("#forecast .row b.over")).not_to_have_count(0)
    before = turn(page)
    change = page.locator("#forecast .advice button").first
    change.wait_for(timeout=60_000)
    expect(change).to_contain_text("cache capacity →")
    capacity = re.search(r"([\d.]+) GiB", change.inner_text())
    change.click()
    assert settled(page, before)["level"] in ("ok", "tight")
    assert capacity is not None
    expect(page.locator("#knob-cache_capacity input[type=number]")).to_have_value(f"{float(capacity[1]):g}")


def test_fit_finds_settings_for_the_chosen_card(page: Page) -> None:
    large_model(page)
    page.locator("#knob-chunk_size").get_by_text("all", exact=True).click()
    before = turn(page)
    page.locator("#forecast select").select_option(SMALL_CARD)
    assert settled(page, before)["level"] == "no"
    before = turn(page)
    page.locator("#forecast .fit").click()
    page.wait_for_function(f"document.querySelector('{CARD}').dataset.level === 'ok'", timeout=60_000)
    assert settled(page, before)["level"] == "ok"


def test_another_card_is_marked_as_simulated_and_remembered(page: Page) -> None:
    simulated = page.locator("#forecast .simulated")
    assert settled(page)["gpu"] == "cpu"
    expect(simulated).to_be_hidden()
    page.locator("#forecast select").select_option("rtx4090")
    expect(simulated).to_be_visible()
    page.reload()
    page.wait_for_selector(CARD, state="attached")
    assert settled(page)["gpu"] == "rtx4090"
    expect(simulated).to_be_visible()


@pytest.mark.parametrize(
    ("locale", "line"), [("en-US", "width: 130 is not allowed"), ("zh-CN", "宽度：不允许 130")]
)
def test_a_size_the_model_cannot_take_is_one_line(open_page: Callable[..., Page], locale: str, line: str) -> None:
    page = open_page(locale=locale)
    before = turn(page)
    fill(page, width=130)
    assert settled(page, before)["level"] == "refused"
    expect(page.locator("#forecast .refused")).to_contain_text(line)
    before = turn(page)
    fill(page, width=128)
    assert settled(page, before)["level"] == "ok"


def test_a_precision_the_card_has_not_names_those_it_has(page: Page) -> None:
    page.locator("#forecast select").select_option("t4")
    before = turn(page)
    page.locator("#advanced button.label-wrap").click()
    page.locator("#knob-precision").get_by_text("bfloat16", exact=True).click()
    assert settled(page, before)["level"] == "refused"
    expect(page.locator("#forecast .refused")).to_contain_text("float16 or float32 on NVIDIA T4")


def test_after_a_run_forecast_and_measured_stand_side_by_side(page: Page) -> None:
    fill(page, prompt="forecast and measured", width=96, height=96, frames=13, steps=4)
    settled(page)
    page.locator("#generate").click()
    page.wait_for_function(
        "document.querySelector('#live [data-run]')?.dataset.status === 'done'"
        " && document.querySelector('[data-k=off]').textContent !== '–'",
        timeout=90_000,
    )
    off = page.locator("[data-k=off]").inner_text()
    assert re.fullmatch(r"[+−]\d+\.\d %", off)
    assert abs(float(off.replace("−", "-").removesuffix(" %"))) < 2, "memory is forecast to 2 %"
    expect(page.locator("#live .stages tr", has_text="Denoise").locator("s").last).to_contain_text("%")
    row = page.locator("#runs tbody tr").first
    expect(row).to_contain_text(f"{off} · ")
    expect(page.locator("#forecast .learned")).to_contain_text("on this card", timeout=15_000)
    page.reload()
    expect(page.locator("[data-k=off]")).to_have_text(off)
