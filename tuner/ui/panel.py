"""All the widgets a run is made of, as one thing: read into a run, or made to show one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from tuner.errors import BadInput
from tuner.machine import Machine
from tuner.models.registry import find_model
from tuner.presets import Preset
from tuner.request import FILES, Request
from tuner.settings import Settings
from tuner.ui import drafts
from tuner.ui.form import MODEL_DEFAULTS, MOST_CLIPS, Form, request_of
from tuner.ui.knobs import batch_sizes, cache_scale, moved_capacity, same_settings, settings_of, shown_values
from tuner.ui.library import Library
from tuner.ui.sidebar import Sidebar, capacity_update, noted, scale_for


@dataclass(frozen=True)
class Asked:
    """What the widgets show, checked."""

    model: str
    settings: Settings
    request: Request
    preset: str


class Panel:
    """Sidebar and form together.

    Args:
        sidebar: The knobs' part.
        form: The request's part.
        library: The presets.
        machine: What this machine computes with.

    Attributes:
        widgets: Every widget by name; their values come to handlers in this order.
        outputs: What showing settings changes, in the order of :meth:`show`.
    """

    def __init__(self, sidebar: Sidebar, form: Form, library: Library, machine: Machine) -> None:
        self.sidebar, self.form, self.library, self.machine = sidebar, form, library, machine
        head = {"model": sidebar.model, "scaled_for": sidebar.scaled_for, "preset": sidebar.preset}
        self.widgets: dict[str, Component] = {**head, **sidebar.knobs, **form.fields}
        self.outputs = [*self.widgets.values(), sidebar.missing, form.source_part]

    @property
    def inputs(self) -> list[Component]:
        """The widgets, for the inputs of an event without preprocessing."""
        return list(self.widgets.values())

    @property
    def drafted(self) -> dict[str, Component]:
        """The widgets whose values a draft keeps."""
        return {name: widget for name, widget in self.widgets.items() if name not in drafts.NOT_KEPT}

    def read(self, values: Sequence[Any]) -> Asked:
        """The raw values of :attr:`inputs`, checked.

        Raises:
            BadInput: A value is not allowed.
        """
        shown = dict(zip(self.widgets, values, strict=True))
        scale = scale_for(shown["scaled_for"])
        settings = settings_of(shown, scale, self.machine.memory_bytes)
        fields = {name: shown[name] for name in self.form.fields}
        fields |= {name: file_path(fields[name]) for name in FILES}
        if fields["source_video"] is None:  # then its strength is of no account
            del fields["strength"]
        request = request_of(fields)
        return Asked(
            model=str(shown["model"] or ""),
            settings=settings,
            request=request,
            preset=self._preset_name(shown["preset"], settings, shown["scaled_for"], request.num_clips),
        )

    def _preset_name(self, key: str | None, settings: Settings, model: str, clips: int) -> str:
        """Name of the chosen preset, with a star when a knob was moved since."""
        try:
            preset = self.library.read(key) if key else None
        except BadInput:
            preset = None
        if preset is None:
            return ""
        same = same_settings(settings, preset.settings, scale_for(model), clips)
        return preset.name if same else f"{preset.name} *"

    def show(
        self, model: str, settings: Settings, fields: Mapping[str, Any], preset: str | None = None
    ) -> list[Any]:
        """What changes on each of :attr:`outputs` so that they show this.

        Args:
            model: Name or folder of the model.
            settings: The knobs.
            fields: Request fields by name; the others stay as they are.
            preset: Key of the preset they come from.
        """
        scale = scale_for(model)
        changes: dict[str, Any] = {"model": model, "scaled_for": model, "preset": gr.update(value=preset)}
        marks = noted(self.machine, settings.engine, settings.step_cache, scale)
        clips = min(fields.get("num_clips", 1), MOST_CLIPS)
        for name, value in shown_values(settings, scale, clips).items():
            changes[name] = {**marks[name], "value": value}
        changes["cache_capacity"] |= capacity_update(scale, changes["cache_capacity"]["value"])
        for name in self.form.fields:
            changes[name] = fields.get(name, gr.skip())
        if "scheduler" in fields:
            changes["scheduler"] = fields["scheduler"] or ""
        if "num_clips" in fields:
            changes["num_clips"] = clips
            changes["batch_size"] |= batch_update(clips, settings.batch_size)
        unfold = gr.update(open=True) if fields.get("source_video") else gr.skip()
        return [*(changes[name] for name in self.widgets), gr.update(visible=not _installed(model)), unfold]

    def show_preset(self, preset: Preset, key: str | None, otherwise: str) -> list[Any]:
        """As :meth:`show`, of a preset; ``otherwise`` is the model where the preset is for any."""
        return self.show(preset.model or otherwise, preset.settings, preset.request.given, key)

    def show_draft(self, draft: Mapping[str, Any], otherwise: str) -> list[Any]:
        """As :meth:`show`, of what a browser kept; what is no longer allowed there is left at its default."""
        model = drafts.drafted_model(draft, otherwise)
        settings = Settings(**drafts.drafted_knobs(draft, scale_for(model)))
        known = draft.get("preset") in [entry.key for entry in self.library.entries()]
        return self.show(model, settings, drafts.drafted_fields(draft), draft["preset"] if known else None)

    def change(self, knobs: Mapping[str, Any], sizes: Mapping[str, int], scaled_for: str) -> list[Any]:
        """What changes on each of :attr:`outputs` when only these knobs and sizes do.

        Args:
            knobs: Values by name, as :class:`Settings` has them.
            sizes: Request fields by name.
            scaled_for: The model that the cache slider's range is for.
        """
        shown = {**knobs, **sizes}
        if "cache_capacity" in knobs:
            shown["cache_capacity"] = scale_for(scaled_for).shown(knobs["cache_capacity"])
        changes = {name: gr.update(value=value) for name, value in shown.items()}
        return [*(changes.get(name, gr.skip()) for name in self.widgets), gr.skip(), gr.skip()]

    def change_model(self, model: str, capacity: float, scaled_for: str) -> list[Any]:
        """What another model changes: the cache slider, what it is for, the warning, the default sizes.

        Raises:
            BadInput: There is no such model.
        """
        info = find_model(model)
        scale = cache_scale(info.cache_bytes)
        moved = moved_capacity(capacity, scale_for(scaled_for), scale)
        defaults = [getattr(info, name) for name in MODEL_DEFAULTS]
        return [capacity_update(scale, moved), model, gr.update(visible=info.path is None), *defaults]

    @property
    def model_outputs(self) -> list[Component]:
        """What :meth:`change_model` changes."""
        sidebar = self.sidebar
        sized = [self.form.fields[name] for name in MODEL_DEFAULTS]
        return [sidebar.knobs["cache_capacity"], sidebar.scaled_for, sidebar.missing, *sized]


def batch_update(clips: int, value: int) -> dict[str, Any]:
    """The batch size's widget for a run of that many clips."""
    offered = batch_sizes(clips)
    return gr.update(choices=[(str(size), size) for size in offered], value=min(value, offered[-1]))


def file_path(value: Any) -> str | None:
    """The file behind a picture's or clip's raw value; Gradio has checked that it was uploaded to it."""
    if not value:
        return None
    return value["path"] if isinstance(value, Mapping) else value.path


def _installed(model: str) -> bool:
    try:
        return find_model(model).path is not None
    except BadInput:
        return False
