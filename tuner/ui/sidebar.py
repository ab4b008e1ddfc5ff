"""The knobs' part of the page: model, preset, the four knobs, the advanced ones, Generate and Cancel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from tuner.errors import BadInput
from tuner.machine import Machine
from tuner.models.registry import ModelInfo, find_model, list_models
from tuner.settings import KNOBS, Settings, Text
from tuner.ui.knobs import CacheScale, Note, Widget, cache_scale, notes, shown_values, widget_of
from tuner.ui.library import Library
from tuner.ui.words import WORDS, both, translated, word

KnobWidget = gr.Radio | gr.Dropdown | gr.Slider
THEME_BUTTON = '<button type="button" class="theme" aria-label="dark or light">◐</button>'


def scale_for(model: str) -> CacheScale:
    """The cache slider for a model, or a wide one while the model is not known."""
    try:
        return cache_scale(find_model(model).cache_bytes)
    except BadInput:
        return cache_scale(0)


def model_key(info: ModelInfo) -> str:
    """The word for a model's title."""
    return f"model_{info.name}"


def model_choices() -> list[tuple[str, str]]:
    """Title and name of every model; one that is not installed says so."""
    return [(translated(model_key(info)), info.name) for info in list_models()]


def model_title(info: ModelInfo) -> Text:
    """A model's name on the page, which says so where it is not installed."""
    if info.path:
        return info.title
    missing = WORDS["not_installed"]
    return Text(f"{info.title.en} ({missing.en})", f"{info.title.zh}（{missing.zh}）")


def preset_choices(library: Library) -> list[tuple[str, str]]:
    """Name and key of every preset; the person's own say so."""
    return [
        (f"{entry.name} ({word('own')})" if entry.own else entry.name, entry.key) for entry in library.entries()
    ]


def _label(name: str, scale: CacheScale) -> str:
    in_mib = name == "cache_capacity" and scale.unit == "MiB"
    return word("cache_capacity_mib") if in_mib else word(f"knob_{name}")


def _classes(name: str, widget: Widget, note: Note | None) -> list[str]:
    classes = ["knob", widget.kind]
    if not KNOBS[name].lossless:
        classes.append("lossy")
    if note is not None:
        classes.append("noted")
    return classes


def _info(name: str, note: Note | None) -> str:
    return word(note.key) if note else word(f"help_{name}")


def draw(name: str, value: Any, scale: CacheScale, note: Note | None) -> KnobWidget:
    """The Gradio widget of one knob.

    Args:
        name: The knob's name.
        value: What it shows.
        scale: The cache slider of the chosen model.
        note: Why it is not as it seems, if so.
    """
    widget = widget_of(name, KNOBS[name], scale)
    label, info = _label(name, scale), _info(name, note)
    interactive = note is None or note.usable
    classes = _classes(name, widget, note)
    elem_id = f"knob-{name}"
    if widget.kind == "slider":
        return gr.Slider(
            widget.minimum,
            widget.maximum,
            value,
            step=widget.step,
            label=label,
            info=info,
            interactive=interactive,
            elem_id=elem_id,
            elem_classes=classes,
            buttons=[],
        )
    choices = [(word("all") if choice == 0 else str(choice), choice) for choice in widget.choices]
    kind = gr.Radio if widget.kind == "segments" else gr.Dropdown
    return kind(
        choices,
        value=value,
        label=label,
        info=info,
        interactive=interactive,
        elem_id=elem_id,
        elem_classes=classes,
    )


def noted(machine: Machine, engine: str, step_cache: str, scale: CacheScale) -> dict[str, dict[str, Any]]:
    """What changes on each knob's widget with these two: its help or note, whether it can be moved."""
    found = notes(machine, engine, step_cache)
    updates = {}
    for name in KNOBS:
        note = found.get(name)
        updates[name] = gr.update(
            info=_info(name, note),
            interactive=note is None or note.usable,
            elem_classes=_classes(name, widget_of(name, KNOBS[name], scale), note),
        )
    return updates


def capacity_update(scale: CacheScale, value: float) -> dict[str, Any]:
    """The cache slider for another model."""
    return gr.update(maximum=scale.maximum, step=scale.step, value=value, label=_label("cache_capacity", scale))


class Sidebar:
    """The widgets of the sidebar.

    Args:
        library: The presets to choose from.
        machine: What this machine computes with.
        info: The model chosen at first.
        draw_forecast: Draws the forecast card where it is called.

    Attributes:
        forecast: The forecast card.
        knobs: Every knob's widget by its name.
        scaled_for: Hidden: the model that the cache slider's range is for at the moment.
    """

    def __init__(
        self, library: Library, machine: Machine, info: ModelInfo, draw_forecast: Callable[[], gr.HTML]
    ) -> None:
        scale = cache_scale(info.cache_bytes)
        values = shown_values(Settings(), scale)
        marks = notes(machine, Settings().engine, Settings().step_cache)
        self.knobs: dict[str, KnobWidget] = {}
        with gr.Sidebar(width=330, elem_id="sidebar"):
            gr.HTML(_brand(machine), elem_id="brand", apply_default_css=False)
            gr.Button(word("language"), elem_id="language")
            self.scaled_for = gr.Textbox(info.name, visible=False)
            self.model = gr.Dropdown(
                model_choices(), value=info.name, label=word("model"), allow_custom_value=True, elem_id="model"
            )
            self.missing = gr.HTML(
                f'<p class="missing">{both("model_missing")}</p>',
                visible=info.path is None,
                elem_id="missing",
                apply_default_css=False,
            )
            self.preset = gr.Dropdown(preset_choices(library), value=None, label=word("preset"), elem_id="preset")
            self._draw_knobs(False, values, scale, marks)
            with gr.Accordion(word("advanced"), open=False, elem_id="advanced"):
                self._draw_knobs(True, values, scale, marks)
            with gr.Column(elem_id="dock"):
                self.forecast = draw_forecast()
                with gr.Row(elem_id="actions"):
                    self.generate = gr.Button(
                        word("generate"), variant="primary", scale=2, min_width=80, elem_id="generate"
                    )
                    self.cancel = gr.Button(
                        word("cancel"), variant="stop", scale=1, min_width=60, interactive=False, elem_id="cancel"
                    )

    def _draw_knobs(
        self, advanced: bool, values: Mapping[str, Any], scale: CacheScale, marks: Mapping[str, Note]
    ) -> None:
        for name, knob in KNOBS.items():
            if knob.advanced == advanced:
                self.knobs[name] = draw(name, values[name], scale, marks.get(name))


def _brand(machine: Machine) -> str:
    return (
        f'<div class="line"><b>EasyAnimate Tuner</b>{THEME_BUTTON}</div>'
        f'<div class="line"><span>{both("tagline")} · {escape(machine.name)}</span></div>'
    )
