"""What a person does on the page, and what is to be seen there."""

from __future__ import annotations

from playwright.sync_api import Page

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
