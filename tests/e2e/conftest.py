"""One real server and one real Chromium for all browser tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Browser, BrowserContext, Error, Page, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The server has said what to show, and it is shown: the preset of a first visit, and the newest run where there
# is one. A press on Generate before that run is there would take it for the new one.
READY = """() => {
    const runs = document.querySelector('#runs');
    return document.querySelector('#preset input')?.value
        && document.querySelector('#live .js-plotly-plot')
        && runs?.querySelector('table, .empty')
        && runs.querySelector('tr.shown')?.dataset.run === document.querySelector('#live [data-run]')?.dataset.run;
}"""
_START_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuner-home")


@pytest.fixture(scope="session")
def url(home: Path) -> Iterator[str]:
    """Address of a server of its own, started as a user starts it."""
    address = f"http://127.0.0.1:{(port := _free_port())}"
    log = home / "server.log"
    environment = {**os.environ, "TUNER_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port)],
            cwd=home,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(address, server, log)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def client(url: str) -> Client:
    """A program that uses the server."""
    return Client(url, verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path or not Path(path).exists():
        advice = "browser tests need Chromium: install the package `chromium`, or name one in CHROMIUM"
        pytest.fail(advice) if os.environ.get("CI") == "true" else pytest.skip(advice)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


OpenPage = Callable[..., Page]


@pytest.fixture(scope="session")
def contexts(browser: Browser) -> Iterator[dict[tuple[int, int, str], BrowserContext]]:
    """One browser context per window size and language: the page's files are fetched once for each."""
    made: dict[tuple[int, int, str], BrowserContext] = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def open_page(
    browser: Browser, url: str, contexts: dict[tuple[int, int, str], BrowserContext]
) -> Iterator[OpenPage]:
    """Opens the page as a new visitor; in the end no page may have had an error or asked another host."""
    opened: list[BrowserContext] = []
    errors: list[str] = []
    external: list[str] = []

    def note_error(error: Error) -> None:
        errors.append(str(error))

    def note_request(request: Request) -> None:
        if not request.url.startswith((url, "data:", "blob:")):
            external.append(request.url)

    def watch(page: Page) -> None:
        page.on("pageerror", note_error)
        page.on("request", note_request)

    def open_(width: int = 1440, height: int = 900, locale: str = "en-US") -> Page:
        kind = (width, height, locale)
        if kind not in contexts:
            contexts[kind] = browser.new_context(viewport={"width": width, "height": height}, locale=locale)
        context = contexts[kind]
        context.on("page", watch)
        opened.append(context)
        if context.pages:
            watch(page := context.pages[0])
        else:
            page = context.new_page()
        page.goto(url)
        page.wait_for_function(READY)
        return page

    yield open_
    for context in opened:
        context.remove_listener("page", watch)
        first, *others = context.pages
        for page in others:
            page.close()
        # The next test's visit is its own, in a tab that need not be made again. A page that is still there could
        # write its draft after the browser has forgotten it.
        first.goto(f"{url}/theme.css")
        first.evaluate("localStorage.clear()")
        first.remove_listener("pageerror", note_error)
        first.remove_listener("request", note_request)
    assert not errors
    assert not external


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    return open_page()
