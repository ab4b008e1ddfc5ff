"""Forecasts from a process of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import psutil
import pytest

from tuner.errors import BadInput, Cancelled, TunerError
from tuner.forecast.clerk import neighbours
from tuner.forecast.desk import Desk
from tuner.forecast.forecast import forecast
from tuner.forecast.learning import FinishedRun, Learned
from tuner.forecast.questions import Question
from tuner.request import Request
from tuner.settings import Settings

SMALL = Question(Request(width=64, height=64, frames=9, steps=4), Settings(), "demo", "cpu")
LARGE = replace(
    SMALL, request=Request(width=1024, height=1024, frames=49), model="easyanimate-v5-7b-inp", gpu="a10"
)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with Desk() as desk:
        desk.ask("first", SMALL).result(60)
        yield desk


def process() -> psutil.Process:
    return next(child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline()))


def worked() -> float:
    """CPU seconds that the desk's process has used."""
    times = process().cpu_times()
    return times.user + times.system


def work(desk: Desk, question: Question) -> float:
    """CPU seconds that an answer takes: the computer's other work does not count."""
    before = worked()
    desk.ask("a", question).result(60)
    return worked() - before


def rest() -> None:
    """Wait until the desk's process has nothing left to do."""
    before = -1.0
    while worked() > before:
        before = worked()
        time.sleep(1.0)


def test_the_answer_is_the_forecast(desk: Desk) -> None:
    answer = desk.ask("a", SMALL).result(60)
    assert answer == forecast(SMALL.request, SMALL.settings, model="demo", gpu="cpu").to_json()


def test_what_runs_taught_goes_into_the_next_answer(desk: Desk) -> None:
    before = desk.ask("a", SMALL).result(60)
    measured = {"stages": [{**stage, "seconds": 2 * stage["seconds"]} for stage in before["stages"]]}
    desk.learn_from(lambda: Learned([FinishedRun("demo", SMALL.settings, before, measured)]))
    try:
        after = desk.ask("a", SMALL).result(60)
    finally:
        desk.learn_from(Learned)
    assert after["seconds"] == pytest.approx(2 * before["seconds"], rel=0.01)
    assert after["learned"]["runs"] == 1
    assert desk.ask("a", SMALL).result(60) == before


def test_a_refusal_comes_back_as_itself(desk: Desk) -> None:
    with pytest.raises(BadInput, match="no bfloat16 arithmetic"):
        desk.ask("a", replace(SMALL, gpu="t4", settings=Settings(precision="bfloat16"))).result(60)
    with pytest.raises(BadInput, match="model"):
        desk.ask("a", replace(SMALL, model="")).result(60)


def test_the_newest_question_of_an_asker_stops_the_one_before_and_nobody_elses(desk: Desk) -> None:
    other = desk.ask("b", replace(SMALL, settings=Settings(chunk_size=2)))
    older = desk.ask("a", LARGE)
    other.result(60)
    time.sleep(0.1)
    skipped = desk.ask("a", replace(LARGE, settings=Settings(chunk_size=1)))
    newest = desk.ask("a", SMALL)
    assert newest.result(60)["gpu"] == "cpu"
    assert isinstance(older.exception(), Cancelled)
    with pytest.raises(CancelledError):
        skipped.result(0)
    assert not other.cancelled()


def test_what_is_likely_asked_next_is_there_already(desk: Desk) -> None:
    question = replace(SMALL, request=SMALL.request.replace(frames=13))
    desk.ask("a", question).result(60)
    unforeseen = work(desk, replace(question, settings=Settings(layout="interleaved")))
    question = replace(question, request=SMALL.request.replace(frames=17), looks_ahead=True)
    desk.ask("a", question).result(60)
    rest()
    foreseen = work(desk, replace(question, settings=Settings(layout="interleaved"), looks_ahead=False))
    print(f"{unforeseen:.2f} s of work unforeseen, {foreseen:.2f} s foreseen")
    assert foreseen < unforeseen / 3


def test_neighbours_differ_in_one_knob() -> None:
    here = Settings(chunk_size=4)
    found = list(neighbours(here, clips=1))
    for settings in found:
        changed = [name for name in Settings.model_fields if getattr(settings, name) != getattr(here, name)]
        assert len(changed) == 1
    assert {settings.chunk_size for settings in found} >= {1, 2, 8, 0}
    assert list(neighbours(here.replace(engine="stock"), clips=1)) == []


def test_a_dead_process_is_one_line_and_the_next_question_gets_another(desk: Desk) -> None:
    asked = desk.ask("a", LARGE)
    time.sleep(0.2)
    os.kill(process().pid, signal.SIGKILL)
    with pytest.raises(TunerError, match="ended"):
        asked.result(60)
    assert desk.ask("a", SMALL).result(60)["fits"]


def test_a_closed_desk_answers_nobody() -> None:
    with Desk() as desk:
        pass
    assert desk.ask("a", SMALL).cancelled()


def test_a_search_gives_the_knobs_that_change(desk: Desk) -> None:
    asked = replace(SMALL, gpu="a10", kind="fit", settings=Settings(engine="stock"))
    answer = desk.ask("a", asked).result(60)
    assert answer["changes"]["engine"] == "tuned"
    assert answer["forecast"]["fits"]


def test_a_kind_that_is_none_is_refused(desk: Desk) -> None:
    with pytest.raises(BadInput, match="kind"):
        desk.ask("a", Question(SMALL.request, SMALL.settings, "demo", "cpu", kind="guess")).result(60)  # type: ignore[arg-type]
