"""The live view: one component that polls the registry and draws in the browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from tuner.errors import BadInput
from tuner.forecast.compare import errors
from tuner.machine import Machine
from tuner.meter.events import STAGES
from tuner.models.registry import find_model
from tuner.pressure import assignments
from tuner.runs import Registry, RunRecord
from tuner.runs.resume import Reached, reached, suggested
from tuner.ui.knobs import cache_scale
from tuner.ui.theme import PLOTLY_JS, read
from tuner.ui.told import in_chinese, settings_in_chinese
from tuner.ui.words import WORDS, both

_SCRIPT_WORDS = (
    "allocated reserved host card_memory seconds_per_step since_start step frame left first now of seed waiting "
    "clip frames_unit steps_unit weights features reconnecting resume resume_smaller retry_smaller "
    "off_memory off_time was_forecast"
)
_MARKUP_WORDS = (
    "peak total_time step_time transfers cache_hits fragmentation no_video preview idle_hint download stage "
    "stage_time stage_peak forecast_error"
)


def script_words() -> dict[str, dict[str, str]]:
    """The words that the live view's script puts on the page, by key and language."""
    keys = [*_SCRIPT_WORDS.split(), *(f"stage_{stage.replace(' ', '_')}" for stage in STAGES)]
    keys += [key for key in WORDS if key.startswith("status_")]
    return {key: WORDS[key]._asdict() for key in keys}


def markup() -> str:
    """The live view's markup with its fixed words filled in."""
    return read("live.html").format(**{key: both(key) for key in _MARKUP_WORDS.split()})


def file_address(path: Path) -> str:
    """Where the page's server serves a file, relative to the page."""
    return f"gradio_api/file={quote(str(path))}"


def about(record: RunRecord, machine: Machine) -> dict[str, Any]:
    """What the page says of a run beside its events.

    Returns:
        Size and seed of the clip, the unit its memory is counted in, and the bytes of the card (0 on a CPU:
        the computer's memory would dwarf the curves).
    """
    try:
        scale = cache_scale(find_model(record.model).cache_bytes)
    except BadInput:
        scale = cache_scale(0)
    request = {name: record.request.get(name) for name in ("width", "height", "frames", "fps", "steps", "seed")}
    card_bytes = machine.memory_bytes if machine.device == "cuda" else 0
    head = {"model": record.model, "preset": record.preset}
    return {**head, **request, "unit": scale.unit, "unit_bytes": scale.unit_bytes, "card_bytes": card_bytes}


def again(kept: Reached | None, suggestion: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page offers for a run that ended early.

    Args:
        kept: How far the latents go that it left.
        suggestion: The smaller settings it suggested.

    Returns:
        ``label``, the key of a word, and ``about`` in both languages; None when there is nothing to offer.
    """
    if kept is None and not suggestion:
        return None
    label = ("resume_smaller" if suggestion else "resume") if kept else "retry_smaller"
    smaller = assignments(dict(suggestion))
    english, chinese = ([smaller], [settings_in_chinese(smaller)]) if smaller else ([], [])
    if kept:
        where = WORDS["resume_decode" if kept.done == kept.steps else "resume_from"]
        figures = {"done": kept.done + 1, "steps": kept.steps}
        english.append(where.en.format(**figures))
        chinese.append(where.zh.format(**figures))
    return {"label": label, "about": {"en": " · ".join(english), "zh": " · ".join(chinese)}}


def poller(registry: Registry, machine: Machine) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The server's side of the live view. It only reads: any page on this computer could call it."""

    def poll(asked: Mapping[str, Any]) -> dict[str, Any]:
        run, cursor = asked.get("run"), asked.get("cursor")
        if not isinstance(run, str) or not isinstance(cursor, int):
            run, cursor = "", 0
        delta = registry.delta(run, cursor)
        latest = registry.latest()
        delta["current"] = latest.id if latest and latest.active else None
        delta["newest"] = next((record.id for record in registry.history(1)), None)
        record = registry.get(run)
        if record is not None:
            if delta["from"] == 0:
                delta["about"] = about(record, machine)
            if not delta["active"] and delta["status"] != "done" and (delta["events"] or delta["from"] == 0):
                delta["again"] = again(reached(registry.store.folder(run)), suggested(delta["events"]))
            delta["videos"] = [file_address(video) for video in record.videos]
            delta["message_zh"] = in_chinese(delta["message"])
            delta["forecast"] = record.forecast
            if record.forecast and record.measured:
                delta["off"] = errors(record.forecast, record.measured)
        delta["events"] = [_with_chinese(event) for event in delta["events"]]
        return delta

    return poll


def _with_chinese(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "message_zh": in_chinese(event["message"])} if "message" in event else event


def live_view(registry: Registry, machine: Machine) -> gr.HTML:
    """The component; its value is the id of the run it shows.

    It triggers ``started`` with ``run`` when another run began, ``changed`` when the shown one has another
    status, and ``resume`` with ``run`` when a person wants one that ended early to go on.
    """
    return gr.HTML(
        value=None,
        elem_id="live",
        html_template=markup(),
        apply_default_css=False,
        js_on_load="\n".join(read(name) for name in ("reduce.js", "charts.js", "live.js")),
        head=f'<script src="/gradio_api/file={quote(str(PLOTLY_JS))}"></script>',
        server_functions=[poller(registry, machine)],
        words=script_words(),
    )
