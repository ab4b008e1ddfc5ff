"""The Presets tab: look at presets, load one, save the current settings, take them along, bring some in."""

from __future__ import annotations

from typing import Any

import gradio as gr

from tuner.errors import TunerError
from tuner.presets import Preset, dump_preset
from tuner.ui.library import Library, preset_request
from tuner.ui.panel import Panel
from tuner.ui.sidebar import preset_choices
from tuner.ui.toasts import refuse, stop, tell
from tuner.ui.words import both, word

_SAVE_AS_FILE = """(name, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/toml" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""


class PresetsTab:
    """The widgets of the tab, and what they do with the library.

    Args:
        library: The presets to choose from.
        panel: Where settings are read from.

    Attributes:
        chosen: The menu of presets.
        load: Button that asks to show the chosen one in the knobs.
        upload: Button that brings a file in.
    """

    def __init__(self, library: Library, panel: Panel) -> None:
        self.library, self.panel = library, panel
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                self.chosen = gr.Dropdown(
                    preset_choices(library), value=None, label=word("preset"), elem_id="preset-chosen"
                )
                with gr.Row():
                    self.load = _button("load", 120)
                    self.delete = _button("delete", 80, interactive=False)
                self.name = gr.Textbox(label=word("preset_name"), max_lines=1, elem_id="preset-name")
                with gr.Row():
                    self.save = _button("save", 80)
                    self.download = _button("download", 150)
                self.upload = gr.UploadButton(
                    word("preset_import"), file_types=[".toml", ".mp4"], size="sm", elem_id="preset-import"
                )
                gr.HTML(f"<small>{both('preset_help')}</small>", elem_classes="help", apply_default_css=False)
            with gr.Column(scale=3, min_width=300):
                self.text = gr.Code(
                    label=word("preset_text"),
                    language=None,
                    interactive=False,
                    lines=10,
                    max_lines=22,
                    wrap_lines=True,
                    elem_id="preset-text",
                )
        self.file_name = gr.Textbox(visible="hidden", elem_id="file-name")
        self.file_text = gr.Textbox(visible="hidden", elem_id="file-text")

    def connect(self, quiet: dict[str, Any]) -> None:
        """Connect what concerns only this tab and the menus of presets.

        Args:
            quiet: Options of a private event.
        """
        shelf = [self.panel.sidebar.preset, self.chosen]
        details = [self.text, self.delete]
        asked = [self.name, *self.panel.inputs]
        files = [self.file_name, self.file_text]
        self.chosen.input(self._describe, self.chosen, details, **quiet)
        self.save.click(self._save, asked, [*shelf, *details], preprocess=False, **quiet)
        self.delete.click(self._delete, self.chosen, [*shelf, *details], **quiet)
        export = self.download.click(self._export, asked, files, preprocess=False, **quiet)
        export.success(None, files, None, js=_SAVE_AS_FILE, api_visibility="private")

    def _describe(self, asker: gr.Request, key: str | None) -> Any:
        if not key:
            return "", gr.update(interactive=False)
        try:
            return self._details(key)
        except TunerError as error:
            return refuse(error, asker)

    def _shelf(self, key: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both menus of presets, read again; an update each, because Gradio takes them apart."""
        choices = preset_choices(self.library)
        return gr.update(choices=choices, value=key), gr.update(choices=choices, value=key)

    def _details(self, key: str) -> tuple[str, dict[str, Any]]:
        return self.library.text(key), gr.update(interactive=self.library.find(key).own)

    def _save(self, asker: gr.Request, name: str | None, *values: Any) -> Any:
        try:
            asked = self.panel.read(values)
            entry = self.library.save(
                name or "",
                asked.settings,
                model=asked.model,
                gpu=self.panel.machine.name,
                request=preset_request(asked.request),
            )
        except TunerError as error:
            return refuse(error, asker)
        tell("saved", asker, name=entry.name)
        return *self._shelf(entry.key), *self._details(entry.key)

    def _delete(self, asker: gr.Request, key: str | None) -> Any:
        try:
            entry = self.library.delete(key or "")
        except TunerError as error:
            return refuse(error, asker)
        tell("deleted", asker, name=entry.name)
        return *self._shelf(None), "", gr.update(interactive=False)

    def _export(self, asker: gr.Request, name: str | None, *values: Any) -> tuple[str, str]:
        try:
            asked = self.panel.read(values)
            title = " ".join((name or "").split()) or asked.preset or asked.model
            preset = Preset(
                name=title,
                model=asked.model,
                gpu=self.panel.machine.name,
                settings=asked.settings,
                request=preset_request(asked.request),
            )
        except TunerError as error:
            raise stop(error, asker) from None
        return file_name(title), dump_preset(preset)


def file_name(title: str) -> str:
    """A preset's title as the name of a file, whatever is in it."""
    plain = "".join(letter if letter.isalnum() or letter in "-_.+" else "-" for letter in title)
    return f"{plain.strip('-.')[:80] or 'preset'}.toml"


def _button(name: str, min_width: int, interactive: bool = True) -> gr.Button:
    return gr.Button(
        word(f"preset_{name}"),
        size="sm",
        min_width=min_width,
        interactive=interactive,
        elem_id=f"preset-{name}",
    )
