"""The whole page: its parts, and what happens when a person touches one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from tuner.errors import TunerError
from tuner.forecast.desk import Desk
from tuner.machine import Machine
from tuner.models.registry import ModelInfo
from tuner.presets import Preset, read_preset
from tuner.request import FILES, open_picture
from tuner.runs import Registry
from tuner.runs.given import clip_seconds
from tuner.settings import Settings
from tuner.ui import drafts, history
from tuner.ui.foreseen import NOT_WATCHED, checked_changes, collect_script, forecast_view
from tuner.ui.form import MOST_CLIPS, Form, sample_pictures
from tuner.ui.library import Library
from tuner.ui.live import live_view
from tuner.ui.menus import on_chosen
from tuner.ui.panel import Panel, batch_update, file_path
from tuner.ui.presets_tab import PresetsTab
from tuner.ui.sidebar import THEME_BUTTON, Sidebar, noted, preset_choices, scale_for
from tuner.ui.theme import read
from tuner.ui.toasts import refuse, tell
from tuner.ui.words import language, say, word

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


class Page:
    """The widgets and their events; made inside ``gr.Blocks``.

    It keeps nothing of its own: runs are the registry's, presets the library's, drafts the browser's.

    Args:
        registry: The runs.
        library: The presets.
        machine: What this machine computes with.
        info: The model chosen at first.
        desk: Makes the forecasts.
    """

    def __init__(
        self, registry: Registry, library: Library, machine: Machine, info: ModelInfo, desk: Desk
    ) -> None:
        self.registry, self.library, self.machine, self.info = registry, library, machine, info
        self.drafts = gr.BrowserState({}, storage_key=drafts.STORAGE_KEY, secret=drafts.SECRET)
        sidebar = Sidebar(library, machine, info, partial(forecast_view, desk, machine, self._is_busy))
        with gr.Row(elem_id="topbar"):
            gr.HTML("<b>EasyAnimate Tuner</b>", apply_default_css=False)
            generate_top = gr.Button(
                word("generate"), variant="primary", size="sm", scale=0, min_width=96, elem_id="generate-top"
            )
            gr.HTML(THEME_BUTTON, min_width=28, apply_default_css=False)
        form = Form(info)
        self.panel = Panel(sidebar, form, library, machine)
        self.live = live_view(registry, machine)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab(word("runs"), id="runs") as runs_tab:
                self.history = gr.HTML(elem_id="runs", apply_default_css=False, js_on_load=read("runs.js"))
            with gr.Tab(word("presets"), id="presets"):
                self.presets = PresetsTab(library, self.panel)
        self.seen = [self.live, sidebar.cancel, self.history]

        for button in (sidebar.generate, generate_top):
            button.click(self._generate, self.panel.inputs, self.seen, preprocess=False, **_QUIET)
        sidebar.cancel.click(self._cancel, self.live, self.seen, **_QUIET)
        for moment in (self.live.started, self.history.show):
            moment(self._show_run, None, self.seen, **_QUIET)
        self.live.resume(self._resume, None, self.seen, **_QUIET)
        # What is shown stays as it is: the page may be on its way to the next run.
        self.live.changed(self._look_again, self.live, self.seen[1:], **_QUIET)
        runs_tab.select(self._refresh, self.live, self.history, **_QUIET)
        for name, widget in form.files.items():
            widget.upload(self._check_file(name), widget, widget, preprocess=False, **_QUIET)
        form.samples.pick(self._pick_sample, None, form.pictures["start_image"], **_QUIET)
        self.presets.connect(_QUIET)
        self._connect_knobs()
        self._connect_forecast()

    def _connect_knobs(self) -> None:
        """What changes the knobs beside a person's own hand; a draft is kept after each change."""
        sidebar, presets, outputs = self.panel.sidebar, self.presets, self.panel.outputs
        for widget in (sidebar.model, sidebar.preset, *sidebar.knobs.values(), *self.panel.form.typed.values()):
            self._keep_draft(widget.input)
        loads: list[tuple[Any, Callable[..., Any], Any]] = [
            (presets.load.click, self._load_preset, presets.chosen),
            (presets.upload.upload, self._import, presets.upload),
            (self.history.reuse, self._reuse, None),
        ]
        for event, handler, inputs in loads:
            self._keep_draft(event(handler, inputs, outputs, **_QUIET).then)
        self._keep_draft(on_chosen(sidebar.preset, self._load_preset, outputs, **_QUIET).then)
        knobs = sidebar.knobs
        asked = [knobs["cache_capacity"], sidebar.scaled_for]
        self._keep_draft(
            on_chosen(
                sidebar.model, self._change_model, self.panel.model_outputs, *asked, preprocess=False, **_QUIET
            ).then
        )
        clips = self.panel.form.typed["num_clips"]
        self._keep_draft(
            clips.input(
                self._offer_batches, [clips, knobs["batch_size"]], knobs["batch_size"], preprocess=False, **_QUIET
            ).then
        )
        decisive = [knobs["engine"], knobs["step_cache"]]
        for knob in decisive:
            knob.input(self._note_knobs, [*decisive, sidebar.scaled_for], list(knobs.values()), **_QUIET)

    def _connect_forecast(self) -> None:
        """The card is told whenever a widget changes, by whatever hand, and sets the knobs it is clicked for."""
        card, widgets = self.panel.sidebar.forecast, self.panel.widgets
        changes = [widget.change for name, widget in widgets.items() if name not in NOT_WATCHED]  # type: ignore[attr-defined]
        gr.on(changes, None, self.panel.inputs, card, js=collect_script(list(widgets)), api_visibility="private")
        scaled_for = self.panel.sidebar.scaled_for
        self._keep_draft(card.take(self._take_changes, scaled_for, self.panel.outputs, **_QUIET).then)

    def _keep_draft(self, event: Any) -> None:
        drafted = self.panel.drafted
        script = drafts.save_script(list(drafted))
        event(None, list(drafted.values()), self.drafts, js=script, api_visibility="private")

    def on_load(self, blocks: gr.Blocks) -> None:
        """Have the page show, when a browser opens it, what it showed before."""
        outputs = [*self.seen, *self.panel.outputs, self.presets.chosen]
        shown = blocks.load(self._restore, self.drafts, outputs, **_QUIET)
        card, widgets = self.panel.sidebar.forecast, self.panel.widgets
        shown.then(None, self.panel.inputs, card, js=collect_script(list(widgets)), api_visibility="private")

    def _restore(self, asker: gr.Request, draft: Any) -> list[Any]:
        latest = self.registry.latest()
        kept = isinstance(draft, dict) and draft
        updates = self.panel.show_draft(draft, self.info.name) if kept else self._show_first(asker)
        choices = preset_choices(self.library)
        at = list(self.panel.widgets).index("preset")
        updates[at] = gr.update(choices=choices, value=updates[at]["value"])
        return [*self._view(latest.id if latest else None), *updates, gr.update(choices=choices)]

    def _show_first(self, asker: gr.Request) -> list[Any]:
        """At the first visit, a preset for the model that is there, and something to generate."""
        prompt = {"prompt": say("first_prompt", language(asker))}
        for entry in self.library.entries():
            preset = self.library.read(entry.key)
            if preset.model == self.info.name:
                fields = prompt | preset.request.given
                return self.panel.show(self.info.name, preset.settings, fields, entry.key)
        return self.panel.show(self.info.name, Settings(), prompt)

    def _is_busy(self) -> bool:
        latest = self.registry.latest()
        return latest is not None and latest.active

    # -- runs -------------------------------------------------------------------------------------

    def _generate(self, asker: gr.Request, *values: Any) -> Any:
        def submit() -> str:
            asked = self.panel.read(values)
            return self.registry.submit(asked.model, asked.request, asked.settings, asked.preset)

        return self._begin(submit, asker)

    def _resume(self, asker: gr.Request, event: gr.EventData) -> Any:
        return self._begin(lambda: self.registry.retry(event.run), asker)

    def _begin(self, submit: Callable[[], str], asker: gr.Request) -> Any:
        """Submit a run and show it, or say that it waits."""
        try:
            before = self.registry.latest()
            run = submit()
        except TunerError as error:
            return refuse(error, asker)
        if before is not None and before.active:
            tell("queued_behind", asker)
            return gr.skip(), gr.skip(), self._table(before.id)
        return run, gr.update(interactive=True), self._table(run)

    def _cancel(self, shown: str | None) -> Any:
        record = self.registry.get(shown) if shown else None
        if record is None or not record.active:
            record = self.registry.latest()
        if record is not None:
            self.registry.cancel(record.id)
        return self._view(shown)

    def _show_run(self, event: gr.EventData) -> Any:
        return self._view(event.run)

    def _look_again(self, shown: str | None) -> Any:
        return self._view(shown)[1:]

    def _refresh(self, shown: str | None) -> str:
        return self._table(shown or "")

    def _view(self, run: str | None) -> tuple[str | None, dict[str, Any], str]:
        """The page on one run: the live view, Cancel, the history."""
        record = self.registry.get(run) if run else None
        active = any(one is not None and one.active for one in (record, self.registry.latest()))
        return record.id if record else None, gr.update(interactive=active), self._table(run or "")

    def _table(self, shown: str) -> str:
        return history.table(self.registry.history(), shown)

    # -- what changes the knobs ---------------------------------------------------------------------

    def _reuse(self, asker: gr.Request, event: gr.EventData) -> Any:
        record = self.registry.get(event.run)
        if record is None:
            return gr.skip()
        fields = {name: record.request[name] for name in self.panel.form.fields if name in record.request}
        for name in FILES:
            kept = fields.get(name)
            fields[name] = kept if kept and Path(kept).is_file() else None
        if fields["source_video"] is None:
            fields.pop("strength", None)
        try:
            updates = self.panel.show(record.model, Settings(**record.settings), fields)
        except TunerError as error:
            return refuse(error, asker)
        tell("loaded", asker, name=record.id)
        return updates

    def _load_preset(self, asker: gr.Request, key: str | None) -> Any:
        if not key:
            return gr.skip()
        try:
            preset = self.library.read(key)
        except TunerError as error:
            return refuse(error, asker)
        return self._show_preset(asker, preset, key)

    def _import(self, asker: gr.Request, path: str) -> Any:
        try:
            preset = read_preset(path)
        except TunerError as error:
            return refuse(error, asker)
        return self._show_preset(asker, preset, None)

    def _show_preset(self, asker: gr.Request, preset: Preset, key: str | None) -> list[Any]:
        tell("loaded", asker, name=preset.name)
        if preset.loras:
            tell("loras_left_out", asker, files=", ".join(Path(file).name for file in preset.loras))
        return self.panel.show_preset(preset, key, self.info.name)

    def _take_changes(self, asker: gr.Request, scaled_for: str, event: gr.EventData) -> Any:
        try:
            knobs, sizes = checked_changes(event.changes)
        except TunerError as error:
            return refuse(error, asker)
        return self.panel.change(knobs, sizes, scaled_for)

    def _change_model(self, asker: gr.Request, model: str | None, capacity: float, scaled_for: str) -> Any:
        if not model or model == scaled_for:
            return gr.skip()
        try:
            return self.panel.change_model(model, capacity, scaled_for)
        except TunerError as error:
            return refuse(error, asker)

    def _note_knobs(self, engine: str, step_cache: str, scaled_for: str) -> list[Any]:
        return list(noted(self.machine, engine, step_cache, scale_for(scaled_for)).values())

    def _offer_batches(self, clips: Any, batch_size: Any) -> Any:
        if clips not in range(1, MOST_CLIPS + 1):  # said when the run is asked for
            return gr.skip()
        return batch_update(int(clips), batch_size)

    # -- pictures and clips -------------------------------------------------------------------------

    def _check_file(self, name: str) -> Callable[..., Any]:
        def check(asker: gr.Request, value: Any) -> Any:
            path = file_path(value)
            try:
                if path is not None and name == "source_video":
                    clip_seconds(path)
                elif path is not None:
                    open_picture(name, path)
            except TunerError as error:
                refuse(error, asker)
                return None
            return gr.skip()

        return check

    def _pick_sample(self, event: gr.EventData) -> Any:
        return next((str(path) for path in sample_pictures() if path.name == event.sample), gr.skip())
