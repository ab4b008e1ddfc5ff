"""The request part of the page: what the clip shows, its size and sampling."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from tuner.errors import BadInput
from tuner.models.registry import ModelInfo
from tuner.request import Request, Scheduler
from tuner.ui.live import file_address
from tuner.ui.theme import read
from tuner.ui.words import both, word

SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "samples"
MODEL_DEFAULTS = ("width", "height", "frames", "fps", "steps")
MOST_CLIPS = 4
_WHOLE = ("width", "height", "frames", "fps", "steps", "seed", "num_clips")
_FIRST_STRENGTH = 0.7
_PICTURE_HEIGHT = 136
_NEW_SEED = "() => Math.floor(Math.random() * 2 ** 32)"


def sample_pictures() -> list[Path]:
    """The start images that come with the project."""
    return sorted(path for path in SAMPLES.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def sample_markup(pictures: list[Path]) -> str:
    """The sample start images as a strip of buttons."""
    buttons = "".join(
        f'<button type="button" data-sample="{escape(path.name)}" title="{escape(path.stem)}">'
        f'<img src="{escape(file_address(path))}" alt="{escape(path.stem)}"></button>'
        for path in pictures
    )
    return f'<div class="strip"><small>{both("samples")}</small>{buttons}</div>'


def request_of(fields: Mapping[str, Any]) -> Request:
    """The request that the form shows.

    Args:
        fields: Value of each of the form's widgets, by the name of its request field.

    Raises:
        BadInput: A value is not allowed; an empty number counts as nothing given.
    """
    values = dict(fields)
    for name in _WHOLE:
        if isinstance(values.get(name), float) and values[name].is_integer():
            values[name] = int(values[name])
    for name in ("guidance", "strength"):
        if isinstance(values.get(name), int):
            values[name] = float(values[name])
    clips = values.get("num_clips")
    if isinstance(clips, int) and not 1 <= clips <= MOST_CLIPS:
        raise BadInput("num_clips", clips, f"1 to {MOST_CLIPS} clips")
    values["scheduler"] = values.get("scheduler") or None
    return Request(**values)


class Form:
    """The widgets of the request.

    Args:
        info: The model whose defaults they start with.

    Attributes:
        typed: Text and number widgets by the name of their request field.
        pictures: Picture widgets, likewise.
        source_video: The source clip.
        strength: How much of it is noised away.
        source_part: The accordion that holds them.
        samples: The strip of sample start images; triggers ``pick`` with ``sample``.
    """

    def __init__(self, info: ModelInfo) -> None:
        defaults = Request.model_fields
        self.typed: dict[str, gr.Textbox | gr.Number | gr.Dropdown] = {}
        self.pictures: dict[str, gr.Image] = {}
        with gr.Row(elem_id="request", equal_height=False):
            with gr.Column(scale=6, min_width=320):
                self.typed["prompt"] = gr.Textbox(
                    "",
                    label=word("prompt"),
                    placeholder=word("prompt_hint"),
                    lines=3,
                    max_lines=6,
                    elem_id="prompt",
                )
                self.typed["negative_prompt"] = gr.Textbox(
                    "",
                    label=word("negative_prompt"),
                    placeholder=word("negative_hint"),
                    lines=1,
                    max_lines=3,
                    elem_id="negative-prompt",
                )
            with gr.Column(scale=5, min_width=300):
                with gr.Row(elem_classes="pictures"):
                    for name in ("start_image", "end_image"):
                        self._picture(name)
                self.samples = gr.HTML(
                    sample_markup(sample_pictures()),
                    elem_id="samples",
                    apply_default_css=False,
                    js_on_load=read("samples.js"),
                )
        with gr.Accordion(word("source_clip"), open=False, elem_id="source-clip") as self.source_part:
            self._draw_source()
        with gr.Row(elem_id="numbers"):
            self._number("width", info.width, step=16)
            self._number("height", info.height, step=16)
            self._number("frames", info.frames, step=4)
            self._number("fps", info.fps)
            self._number("steps", info.steps)
            self._number("guidance", defaults["guidance"].default, step=0.5)
            self.typed["scheduler"] = gr.Dropdown(
                [(word("scheduler_default"), ""), *get_args(Scheduler)],
                value="",
                label=word("scheduler"),
                min_width=110,
                elem_id="scheduler",
            )
            self._number("num_clips", 1, maximum=MOST_CLIPS)
            with gr.Row(elem_id="seed-row"):
                self._number("seed", defaults["seed"].default)
                dice = gr.Button("⟳", elem_id="dice", size="sm", scale=0, min_width=34)
        dice.click(None, None, self.typed["seed"], js=_NEW_SEED, api_visibility="private")

    def _draw_source(self) -> None:
        with gr.Row(elem_classes="pictures"):
            self.source_video = gr.Video(
                label=word("source_video"),
                sources=["upload"],
                buttons=[],
                height=_PICTURE_HEIGHT,
                min_width=120,
                elem_id="source-video",
            )
            self._picture("mask")
            with gr.Column(scale=2, min_width=240):
                self.strength = gr.Slider(
                    0.05, 1, _FIRST_STRENGTH, step=0.05, label=word("strength"), buttons=[], elem_id="strength"
                )
                gr.HTML(f"<small>{both('source_help')}</small>", elem_classes="help", apply_default_css=False)

    def _picture(self, name: str) -> None:
        self.pictures[name] = gr.Image(
            label=word(name),
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            buttons=[],
            height=_PICTURE_HEIGHT,
            min_width=120,
            elem_id=name.replace("_", "-"),
        )

    def _number(self, name: str, value: float, step: float = 1, maximum: float | None = None) -> None:
        self.typed[name] = gr.Number(
            value, label=word(name), step=step, maximum=maximum, min_width=76, elem_id=name
        )

    @property
    def fields(self) -> dict[str, Component]:
        """Every widget by the name of its request field."""
        return {**self.typed, **self.files, "strength": self.strength}

    @property
    def files(self) -> dict[str, gr.Image | gr.Video]:
        """The widgets that take a file, likewise."""
        return {**self.pictures, "source_video": self.source_video}
