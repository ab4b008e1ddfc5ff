"""From the knobs of :mod:`tuner.settings` to widgets and back: a pure mapping that knows no Gradio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tuner.errors import BadInput
from tuner.machine import Machine
from tuner.settings import GIB, KNOBS, Knob, Settings

MIB = 1024**2
BRANCHES = 2
"""Samples of each clip, one per guidance branch: more than all of them no forward can hold."""

_MOST_SEGMENTS = 8
_MOST_CHARACTERS = 40
_FINEST_STEPS = 50
_NICE_STEPS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 25)
_UNKNOWN_CACHE_GIB = 64
_STOCK_OBEYS = ("precision", "workers", "text_projection", "engine")

Kind = Literal["segments", "menu", "slider"]


@dataclass(frozen=True)
class CacheScale:
    """How the cache slider counts: MiB for a small model, GiB for a large one.

    Attributes:
        unit: What one unit of the slider is called.
        unit_bytes: Bytes of that unit.
        maximum: All that the model can use, rounded up to a step.
        step: Step of the slider.
    """

    unit: Literal["MiB", "GiB"]
    unit_bytes: int
    maximum: float
    step: float

    def shown(self, gib: float) -> float:
        """A capacity as the slider shows it; more than the model can use is all of it."""
        return min(round(gib * GIB / self.unit_bytes, 6), self.maximum)

    def gib(self, shown: float) -> float:
        """What the slider shows as the knob's value."""
        return shown * self.unit_bytes / GIB


def cache_scale(cache_bytes: int) -> CacheScale:
    """The slider for a model whose blocks take ``cache_bytes``; 0 when that is not known.

    A small model's slider goes to twice that: while it decodes, its VAE's features outweigh its blocks.
    """
    if cache_bytes <= 0:
        return CacheScale("GiB", GIB, _UNKNOWN_CACHE_GIB, 0.25)
    if cache_bytes < GIB:
        cache_bytes *= 2
    if cache_bytes >= GIB:
        unit, unit_bytes, step = "GiB", GIB, 0.25
    else:
        unit, unit_bytes = "MiB", MIB
        step = next((step for step in _NICE_STEPS if cache_bytes / MIB / step <= _FINEST_STEPS), 25)
    maximum = math.ceil(cache_bytes / unit_bytes / step) * step
    return CacheScale(unit, unit_bytes, round(maximum, 6), step)


@dataclass(frozen=True)
class Widget:
    """What the page draws for a knob: a row of segments, a menu, or a slider."""

    kind: Kind
    choices: tuple[int | str, ...] = ()
    minimum: float = 0
    maximum: float = 0
    step: float = 1


def batch_sizes(clips: int) -> tuple[int, ...]:
    """The batch sizes worth offering for a run of that many clips."""
    return tuple(range(1, BRANCHES * clips + 1))


def widget_of(name: str, knob: Knob, scale: CacheScale, clips: int = 1) -> Widget:
    """The widget for one knob.

    Args:
        name: The knob's name.
        knob: What is known of it.
        scale: The cache slider of the chosen model.
        clips: How many a run makes.
    """
    if name == "cache_capacity":
        return Widget("slider", minimum=knob.minimum, maximum=scale.maximum, step=scale.step)
    choices = batch_sizes(clips) if name == "batch_size" else knob.choices
    if not choices:
        return Widget("slider", minimum=knob.minimum, maximum=knob.maximum, step=knob.step)
    length = sum(len(str(choice)) for choice in choices)
    few = len(choices) <= _MOST_SEGMENTS and length <= _MOST_CHARACTERS
    return Widget("segments" if few else "menu", choices=choices)


def shown_values(settings: Settings, scale: CacheScale, clips: int = 1) -> dict[str, int | float | str]:
    """What each knob's widget shows for ``settings`` and a run of so many clips."""
    values = dict(settings)
    values["batch_size"] = min(settings.batch_size, BRANCHES * clips)
    values["cache_capacity"] = scale.shown(settings.cache_capacity)
    return values


def settings_of(shown: Mapping[str, Any], scale: CacheScale, memory_bytes: int | None = None) -> Settings:
    """The settings that the widgets show.

    Args:
        shown: Value of each knob's widget; what is not there keeps its default.
        scale: What the cache slider counts in.
        memory_bytes: Of the device: a slider at its end means all that the model can use, as far as there is room.

    Raises:
        BadInput: A value is not allowed.
    """
    values: dict[str, Any] = {}
    for name in KNOBS:
        if name not in shown:
            continue
        value = shown[name]
        whole = Settings.model_fields[name].annotation is int
        if whole and isinstance(value, float) and value.is_integer():
            value = int(value)
        if name == "cache_capacity":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInput(name, value, f"0 to {scale.maximum:g} {scale.unit}")
            at_end, value = value == scale.maximum, scale.gib(value)
            if at_end and memory_bytes is not None:
                value = min(value, memory_bytes / GIB)
        values[name] = value
    return Settings(**values)


def moved_capacity(shown: float, old: CacheScale, new: CacheScale) -> float:
    """The cache slider after a change of model: as much as it can use stays that, else the same bytes."""
    return new.maximum if shown >= old.maximum else new.shown(old.gib(shown))


def same_settings(one: Settings, other: Settings, scale: CacheScale, clips: int = 1) -> bool:
    """Whether two settings mean the same on this model, for so many clips."""
    return shown_values(one, scale, clips) == shown_values(other, scale, clips)


@dataclass(frozen=True)
class Note:
    """Why a knob is not as it seems.

    Attributes:
        key: The word that says it.
        usable: Whether the knob still does something.
    """

    key: str
    usable: bool = False


def notes(machine: Machine, engine: str, step_cache: str) -> dict[str, Note]:
    """What the machine and two of the knobs make of the others; a knob without a note is as its help says."""
    found: dict[str, Note] = {}
    if machine.device == "cpu":
        found["prefetch"] = Note("note_cpu_prefetch")
        found["precision"] = Note("note_cpu_precision", usable=True)
        found["attention"] = Note("note_cpu_attention", usable=True)
    if step_cache == "off":
        found["step_cache_threshold"] = Note("note_step_cache_off")
    if engine == "stock":
        for name in KNOBS:
            if name not in _STOCK_OBEYS:
                found[name] = Note("note_stock")
    return found
