"""A run that ended early goes on at a click."""

from __future__ import annotations

import resource
from collections.abc import Callable

import psutil
from gradio_client import Client
from playwright.sync_api import Page, expect

from tests.e2e.actions import QUICK, data, ended, fill, generate


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
