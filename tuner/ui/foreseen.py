"""The forecast card's component, and the server's side of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import gradio as gr

from tuner.errors import Cancelled, TunerError
from tuner.forecast.desk import Desk
from tuner.forecast.questions import Question
from tuner.hardware import find_card
from tuner.machine import Machine
from tuner.request import FILES, Request
from tuner.settings import Settings, Text
from tuner.ui import forecast_card
from tuner.ui.form import request_of
from tuner.ui.knobs import settings_of
from tuner.ui.refusals import refusal
from tuner.ui.sidebar import scale_for
from tuner.ui.theme import read

NOT_WATCHED = ("prompt", "negative_prompt", "seed", "fps", "preset")
"""Widgets that change no forecast."""

_GIVEN = "given"  # a forecast opens no file
_MOST_TAB_CHARACTERS = 40
_NOTHING = {"superseded": True}


def question_of(asked: Mapping[str, Any], machine: Machine) -> Question:
    """What a page asks.

    Args:
        asked: ``values`` of the widgets by name, with true or false for files; ``gpu``; ``kind``.
        machine: What this machine computes with.

    Raises:
        BadInput: A value is not allowed.
    """
    values = asked.get("values")
    shown: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
    card = find_card(str(asked.get("gpu")))
    scale = scale_for(str(shown.get("scaled_for") or ""))
    fields = {name: shown[name] for name in Request.model_fields if name in shown}
    fields |= {name: _GIVEN if shown.get(name) else None for name in FILES}
    if fields["source_video"] is None:
        fields.pop("strength", None)
    return Question(
        request=request_of(fields),
        settings=settings_of(shown, scale, forecast_card.limit_of(card, machine)),
        model=str(shown.get("model") or ""),
        gpu=card.name,
        kind=asked.get("kind") or "forecast",
    )


def answerer(
    desk: Desk, machine: Machine, is_busy: Callable[[], bool]
) -> Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]:
    """What the card's script calls. It only reads and computes: any page on this computer could call it.

    Args:
        desk: Makes the forecasts.
        machine: What this machine computes with.
        is_busy: Whether a run is being made; then nothing is worked out beforehand.
    """

    async def forecast(asked: Mapping[str, Any]) -> dict[str, Any]:
        tab = f"tab {str(asked.get('tab'))[:_MOST_TAB_CHARACTERS]}"
        try:
            question = question_of(asked, machine)
            future = desk.ask(tab, _looking_ahead(question, not is_busy()))
            answer = await asyncio.wrap_future(future)
        except (Cancelled, CancelledError, asyncio.CancelledError):
            return _NOTHING
        except TunerError as error:
            return {"markup": forecast_card.refused(_both_languages(error)), "level": "refused"}
        return _drawn(question, answer, forecast_card.limit_of(find_card(question.gpu), machine))

    return forecast


def _looking_ahead(question: Question, idle: bool) -> Question:
    return Question(**{**vars(question), "looks_ahead": idle and question.kind == "forecast"})


def _drawn(question: Question, answer: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    if question.kind == "forecast":
        level = forecast_card.level_of(answer, limit_bytes)
        return {"markup": forecast_card.body(answer, limit_bytes), "level": level, "forecast": answer}
    markup = forecast_card.advice(answer["changes"], answer["forecast"])
    return {"markup": markup, "changes": answer["changes"]}


def _both_languages(error: TunerError) -> Text:
    return Text(refusal(error, "en"), refusal(error, "zh"))


def forecast_view(desk: Desk, machine: Machine, is_busy: Callable[[], bool]) -> gr.HTML:
    """The component; its value is what the widgets show, by name.

    It triggers ``take`` with ``changes``, knobs or sizes by name, when a person wants these.
    """
    return gr.HTML(
        value=None,
        elem_id="forecast",
        html_template=forecast_card.frame(machine),
        apply_default_css=False,
        js_on_load=read("forecast.js"),
        server_functions=[answerer(desk, machine, is_busy)],
    )


def collect_script(names: Sequence[str]) -> str:
    """The browser's code that turns the widgets' values, in the order of ``names``, into the component's value."""
    files = json.dumps([name for name in names if name in FILES])
    return (
        f"(...values) => Object.fromEntries({json.dumps(list(names))}.map("
        f"(name, i) => [name, {files}.includes(name) ? Boolean(values[i]) : values[i]]))"
    )


def checked_changes(changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Knobs and request fields of what a click wants to set.

    Raises:
        BadInput: A name or value is not allowed.
    """
    wanted = dict(changes) if isinstance(changes, Mapping) else {}
    sizes = {name: wanted.pop(name) for name in ("width", "height") if name in wanted}
    Request(**sizes)
    settings = Settings(**wanted)
    return {name: getattr(settings, name) for name in wanted}, sizes
