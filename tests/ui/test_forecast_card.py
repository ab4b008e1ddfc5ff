"""What the forecast card draws, and how the page's widgets become a question."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tuner.errors import BadInput
from tuner.forecast.desk import Desk
from tuner.machine import Machine
from tuner.request import FILES, Request
from tuner.settings import GIB, KNOBS, Settings
from tuner.ui import forecast_card
from tuner.ui.foreseen import answerer, checked_changes, question_of
from tuner.ui.knobs import shown_values
from tuner.ui.sidebar import scale_for

CPU = Machine("cpu", "CPU", 24 * GIB)
A10 = Machine("cuda", "NVIDIA A10", 22 * GIB)
SPLIT = {"weights": 4 * GIB, "activations": 3 * GIB, "features": 2 * GIB, "workspace": GIB}
STAGE = {
    "name": "decode",
    "seconds": 60.0,
    "peak_allocated_bytes": 10 * GIB,
    "peak_reserved_bytes": 11 * GIB,
    "split": SPLIT,
    "transfers": {"h2d_count": 3, "h2d_bytes": GIB, "d2h_count": 3, "d2h_bytes": GIB},
}
FORECAST = {
    "gpu": "a10",
    "fits": True,
    "peak_allocated_bytes": 10 * GIB,
    "peak_reserved_bytes": 11 * GIB,
    "seconds": 166.0,
    "step_seconds": [5.5, 4.9],
    "stages": [STAGE],
}


def asked(
    model: str = "demo", gpu: str = "cpu", settings: Settings | None = None, **fields: Any
) -> dict[str, Any]:
    knobs = shown_values(settings or Settings(), scale_for(model))
    request = {"prompt": "x", "width": 64, "height": 64, "frames": 9, "steps": 4, "scheduler": "", **fields}
    values = {"model": model, "scaled_for": model, **knobs, **request, **dict.fromkeys(FILES, False)}
    return {"tab": "t", "gpu": gpu, "kind": "forecast", "values": values | fields}


def widths(markup: str) -> list[float]:
    return [float(width) for width in re.findall(r"width:([\d.]+)%", markup)]


def test_bars_are_to_the_scale_of_the_line() -> None:
    markup = forecast_card.body(FORECAST, 20 * GIB)
    (line,) = (float(left) for left in re.findall(r"left:([\d.]+)%", markup))
    assert sum(widths(markup)) / line == pytest.approx(10 / 20, rel=0.01)
    assert widths(markup) == pytest.approx([share * widths(markup)[3] for share in (4, 3, 2, 1)], rel=0.01)


def test_a_run_far_below_the_line_is_drawn_larger_without_it() -> None:
    markup = forecast_card.body(FORECAST, 1000 * GIB)
    assert "left:" not in markup
    assert 60 < sum(widths(markup)) < 80


@pytest.mark.parametrize(
    ("fits", "limit_gib", "level", "said"),
    [
        (True, 20, "ok", "✓ fits, 10.00 GiB of 20.00 GiB to spare"),
        (True, 10.4, "tight", "only just: 409.6 MiB to spare"),
        (False, 8, "no", "✕ does not fit: 3.00 GiB more than 8.00 GiB"),
    ],
)
def test_the_verdict_has_three_levels(fits: bool, limit_gib: float, level: str, said: str) -> None:
    forecast, limit = {**FORECAST, "fits": fits}, int(limit_gib * GIB)
    assert forecast_card.level_of(forecast, limit) == level
    assert said in forecast_card.body(forecast, limit)
    assert "达" in forecast_card.body({**forecast, "fits": False}, limit)


def test_time_steps_and_transfers_are_said() -> None:
    markup = forecast_card.body(FORECAST, 20 * GIB)
    assert "2:46" in markup and "4.90 s" in markup and "2.00 GiB" in markup


@pytest.mark.parametrize(("runs", "said"), [(1, "corrected by 1 run on"), (7, "corrected by 7 runs on")])
def test_how_many_runs_corrected_the_times_is_said(runs: int, said: str) -> None:
    learned = {"runs": runs, "stages": {"denoise": {"factor": 1.2, "runs": runs}}}
    assert said in forecast_card.body({**FORECAST, "learned": learned}, 20 * GIB)
    assert "corrected" not in forecast_card.body(FORECAST, 20 * GIB)


def test_this_machines_card_comes_first_and_is_the_only_one_not_simulated() -> None:
    for machine, first in ((CPU, "cpu"), (A10, "a10")):
        cards = re.findall(r'<option value="([^"]+)"( data-here="true")?', forecast_card.chooser(machine))
        assert cards[0] == (first, ' data-here="true"')
        assert [here for _, here in cards[1:]] == [""] * (len(cards) - 1)
        assert ("cpu" in dict(cards)) == (machine is CPU)


def test_a_change_is_a_button_that_says_what_it_sets_and_costs() -> None:
    markup = forecast_card.advice({"chunk_size": 4, "cache_capacity": 1.5}, FORECAST)
    assert "chunk size → 4, cache capacity → 1.50 GiB" in markup and "分块大小 → 4" in markup
    assert "&quot;chunk_size&quot;: 4" in markup and "2:46" in markup
    assert "size → 1008×576" in forecast_card.advice({"width": 1008, "height": 576}, FORECAST)
    assert forecast_card.advice({}, None) == ""


def test_widgets_become_a_question() -> None:
    settings = Settings(chunk_size=2, batch_size=1, cache_capacity=4 / 1024)
    question = question_of(asked(settings=settings, steps=7.0, start_image=True), CPU)
    assert question.settings == settings
    assert (question.request.steps, question.request.start_image) == (7, "given")
    assert (question.model, question.gpu) == ("demo", "cpu")


def test_a_full_cache_slider_means_as_much_as_the_chosen_card_has() -> None:
    model = "easyanimate-v5-7b-inp"
    question = question_of(asked(model, "rtx3060-12gb", Settings(cache_capacity=1024.0)), CPU)
    assert 11 < question.settings.cache_capacity < 12


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (asked(width=130), "width"),
        (asked(gpu="rtx9999"), "gpu"),
        (asked(steps=None), "steps"),
        ({"gpu": "cpu", "values": asked()["values"] | {"chunk_size": [3]}}, "chunk_size"),
    ],
)
def test_what_cannot_be_asked_is_one_line_in_both_languages(given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput, match=field):
        question_of(given, CPU)
    # In a thread of its own: the browser's tests leave an event loop behind in this one.
    with Desk() as desk, ThreadPoolExecutor(1) as thread:
        told = thread.submit(lambda: asyncio.run(answerer(desk, CPU, lambda: False)(given))).result()
    assert told["level"] == "refused"
    assert 'lang="zh"' in told["markup"]
    assert "Traceback" not in told["markup"]


def test_what_is_no_form_asks_about_no_model() -> None:
    """Which the desk refuses."""
    assert question_of({"gpu": "cpu", "values": "x"}, CPU).model == ""


def test_a_click_sets_only_knobs_and_sizes_that_are_allowed() -> None:
    assert checked_changes({"chunk_size": 4, "width": 64, "height": 32}) == (
        {"chunk_size": 4},
        {"width": 64, "height": 32},
    )
    for bad in ({"chunk_size": 3}, {"width": 13}, {"prompt": "x"}):
        with pytest.raises(BadInput):
            checked_changes(bad)


def test_every_knob_and_part_has_its_words() -> None:
    for name in KNOBS:
        assert forecast_card.change_words({name: 1}).zh
    frame = forecast_card.frame(CPU)
    for part in forecast_card.PARTS:
        assert f'class="{part}"' in frame
    assert set(forecast_card.PARTS) == set(SPLIT)
    assert Request.model_fields.keys() >= set(FILES)
