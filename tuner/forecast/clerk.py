"""The process that answers a desk's questions. It imports torch only when the first one comes.

While nobody asks, it works out what is likely to be asked next: the same with one knob moved.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tuner.errors import BadInput, TunerError
from tuner.forecast.questions import Answer, Question
from tuner.pressure import Changes
from tuner.settings import KNOBS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuner.forecast.forecast import Forecaster

_NICE = 5
"""A run, or the page itself, goes first."""


class Flag(Protocol):
    """A byte that the other side sets."""

    value: int


def serve(questions: Connection, answers: Connection, stop: Flag) -> None:
    """Answer ``questions`` until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    if hasattr(os, "nice"):
        os.nice(_NICE)
    forecaster: Forecaster | None = None
    settled_for: str | Path = ""
    while True:
        try:
            question: Question = questions.recv()
        except (EOFError, OSError):
            return
        if forecaster is None:
            import torch

            from tuner.forecast.forecast import Forecaster

            torch.set_num_threads(1)  # shapes only
            forecaster = Forecaster()
        forecaster.learned = question.learned
        reply = _reply(forecaster, question, lambda: bool(stop.value))
        try:
            answers.send(reply)
        except OSError:
            return  # the server is gone: nobody wants the rest
        if question.model != settled_for:
            settled_for = question.model
            _settle()
        if question.looks_ahead and reply[0] == "answer":
            _look_ahead(forecaster, question, questions.poll)


def _settle() -> None:
    """Spare the model just built from every later search for garbage: 0.3 s of each few forecasts otherwise."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _reply(forecaster: Forecaster, question: Question, should_stop: Callable[[], bool]) -> tuple[str, Any]:
    try:
        return "answer", _answer(forecaster, question, should_stop)
    except TunerError as error:
        return "refused", error
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one question, the next is to be answered
        return "refused", TunerError(f"no forecast: {type(error).__name__}: {error}")


def _answer(forecaster: Forecaster, question: Question, should_stop: Callable[[], bool]) -> Answer:
    from tuner.forecast.fit import fastest_that_fits
    from tuner.forecast.relief import relief, smaller_clip

    ask = partial(forecaster.forecast, model=question.model, gpu=question.gpu, should_stop=should_stop)
    if question.kind == "forecast":
        return ask(question.request, question.settings).to_json()
    if question.kind == "relief":
        found = relief(ask, question.request, question.settings)
    elif question.kind == "size":
        found = smaller_clip(ask, question.request, question.settings)
    elif question.kind == "fit":
        fit = fastest_that_fits(
            question.request,
            model=question.model,
            gpu=question.gpu,
            start=question.settings,
            forecaster=forecaster,
            should_stop=should_stop,
        )
        found = _changes(question.settings, fit.settings), fit.forecast
    else:
        raise BadInput("kind", question.kind, "forecast, relief, size, fit")
    if found is None:
        return {"changes": {}, "forecast": None}
    changes, forecast = found
    return {"changes": changes, "forecast": forecast.to_json()}


def _changes(before: Settings, after: Settings) -> Changes:
    return {name: getattr(after, name) for name in KNOBS if getattr(after, name) != getattr(before, name)}


def _look_ahead(forecaster: Forecaster, question: Question, is_asked: Callable[[], bool]) -> None:
    """Forecast the neighbours of ``question`` until somebody asks."""
    for settings in neighbours(question.settings, question.request.num_clips):
        if is_asked():
            return
        try:
            forecaster.forecast(
                question.request, settings, model=question.model, gpu=question.gpu, should_stop=is_asked
            )
        except TunerError:
            continue


def neighbours(settings: Settings, clips: int) -> Iterator[Settings]:
    """Settings with one knob of the page's four at another choice, the nearest first."""
    if settings.engine == "stock":
        return
    for batch in range(1, 2 * clips + 1):
        if batch != settings.batch_size:
            yield settings.replace(batch_size=batch)
    for name in ("chunk_size", "layout"):
        choices = KNOBS[name].choices
        at = choices.index(getattr(settings, name))
        for choice in sorted(choices, key=lambda choice: abs(choices.index(choice) - at)):
            if choice != choices[at]:
                yield settings.replace(**{name: choice})
