"""The assembled page, without a browser."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tuner.errors import BadInput
from tuner.forecast.desk import Desk
from tuner.machine import Machine
from tuner.request import Request
from tuner.runs import Registry
from tuner.settings import KNOBS, Settings
from tuner.ui.app import build, launch
from tuner.ui.live import poller

PUBLIC = {"run", "status", "result", "cancel", "presets"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("data")) as registry:
        yield registry


@pytest.fixture(scope="module")
def page(registry: Registry) -> tuple[gr.Blocks, dict[str, Any]]:
    return build(registry, registry.store.data_dir, Desk())


def test_only_the_five_end_points_are_public(page: tuple[gr.Blocks, dict[str, Any]]) -> None:
    named = page[0].get_api_info()["named_endpoints"]
    assert set(named) == {f"/{name}" for name in PUBLIC}
    for name in PUBLIC:
        assert named[f"/{name}"]["description"]


def test_no_tab_holds_a_connection_open(page: tuple[gr.Blocks, dict[str, Any]]) -> None:
    config = page[0].get_config_file()
    assert config["connect_heartbeat"] is False
    assert not any(component["type"] == "state" for component in config["components"])


def test_every_knob_is_on_the_page(page: tuple[gr.Blocks, dict[str, Any]]) -> None:
    ids = {component["props"].get("elem_id") for component in page[0].get_config_file()["components"]}
    assert {f"knob-{name}" for name in KNOBS} <= ids


def test_only_runs_are_served_from_the_data_directory(
    page: tuple[gr.Blocks, dict[str, Any]], registry: Registry
) -> None:
    assert page[1]["allowed_paths"] == [str(registry.store.data_dir / "runs")]


def test_the_live_view_is_told_of_a_run_and_of_what_is_newer(registry: Registry) -> None:
    poll = poller(registry, Machine("cuda", "NVIDIA A10", 24 * 1024**3))
    run = registry.submit("demo", Request(width=64, height=64, frames=5, steps=1, seed=9), Settings())
    told = poll({"run": run, "cursor": 0})
    assert told["about"]["seed"] == 9
    assert (told["about"]["unit"], told["about"]["card_bytes"]) == ("MiB", 24 * 1024**3)
    assert told["newest"] == run
    registry.cancel(run)


@pytest.mark.parametrize("asked", [{}, {"run": 3, "cursor": "x"}, {"run": "../../etc", "cursor": -1}])
def test_a_poll_that_makes_no_sense_gets_an_answer(registry: Registry, asked: dict[str, Any]) -> None:
    told = poller(registry, Machine("cpu", "CPU", 1))(asked)
    assert (told["status"], told["events"]) == ("unknown", [])


def test_a_port_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="port: 99999"):
        launch(port=99999, data_dir=tmp_path)


def test_the_server_starts_without_torch() -> None:
    code = "import sys, tuner.ui.app; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_was_cut_short_is_offered_to_go_on_and_one_that_is_done_is_not(registry: Registry) -> None:
    poll = poller(registry, Machine("cpu", "CPU", 1))
    small = Request(width=32, height=32, frames=1, steps=60, seed=9)
    cut, done = (
        registry.submit("demo", small, Settings()),
        registry.submit("demo", small.replace(steps=1), Settings()),
    )
    while not any(event["kind"] == "StepDone" for event in poll({"run": cut, "cursor": 0})["events"]):
        assert "again" not in poll({"run": cut, "cursor": 0})
        time.sleep(0.05)
    registry.cancel(cut)
    while registry.delta(done, 0)["active"]:
        time.sleep(0.05)
    told = poll({"run": cut, "cursor": 0})
    assert told["again"]["label"] == "resume"
    assert told["again"]["about"]["en"].startswith("from step ")
    assert "again" not in poll({"run": cut, "cursor": told["next"]}), "it is said once"
    assert "again" not in poll({"run": done, "cursor": 0})
