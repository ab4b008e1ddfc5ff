"""What ``tuner run`` is to do: a flag beats the preset, the preset beats the model's default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.cli.presets import find_preset
from tuner.errors import BadInput
from tuner.machine import check_capacity
from tuner.models.download import available
from tuner.models.registry import find_model
from tuner.presets import Preset
from tuner.request import Request
from tuner.runs.given import check_given
from tuner.runs.resume import LATENTS_FILE, reached, retry
from tuner.runs.store import Store
from tuner.settings import Settings, parse_knob

_DEFAULT_MODEL = "demo"


@dataclass(frozen=True)
class Plan:
    """One run, checked.

    Attributes:
        model: Name or folder of the model.
        request: What to make.
        settings: How to make it.
        preset: Name of the preset it started from, or empty.
        loras: Files to merge into the model, and how much of each.
        resumes: Folder of the run whose latents it goes on from, if it does.
    """

    model: str
    request: Request
    settings: Settings
    preset: str
    loras: list[tuple[Path, float]]
    resumes: Path | None = None

    @property
    def latents(self) -> Path | None:
        """The latents it goes on from, if it does."""
        return self.resumes / LATENTS_FILE if self.resumes else None


def make_plan(
    model: str, preset: str, knobs: Sequence[str], flags: Mapping[str, Any], loras: Sequence[str] = ()
) -> Plan:
    """Check everything that can be checked without the model's weights.

    Args:
        model: Name or folder; empty takes the preset's, else the demo.
        preset: Name or file of a preset; empty for none.
        knobs: Assignments ``knob=value``.
        flags: Request fields; None where no flag was given.
        loras: ``FILE`` or ``FILE=WEIGHT``, besides those of the preset.

    Raises:
        BadInput: Any of it is not allowed.
    """
    start = find_preset(preset)[1] if preset else Preset(name="")
    model = model or start.model or _DEFAULT_MODEL
    info = find_model(model)
    defaults = {name: getattr(info, name) for name in ("width", "height", "frames", "steps", "fps")}
    given = {name: value for name, value in flags.items() if value is not None}
    request = Request(**{**defaults, **start.request.given, **given})
    if request.frames > info.max_frames:
        raise BadInput("frames", request.frames, f"at most {info.max_frames} with this model")
    check_given(request)
    settings = start.settings.replace(**dict(parse_knob(knob) for knob in knobs))
    check_capacity(settings)
    merged = dict(parse_lora(f"{file}={weight}") for file, weight in start.loras.items())
    merged.update(parse_lora(text) for text in loras)
    available(info)  # last, as it may be a long download
    return Plan(model, request, settings, start.name, list(merged.items()))


def resume_plan(run_id: str, knobs: Sequence[str], others: Mapping[str, Any]) -> Plan:
    """Go on with a run that ended early: its request and model, its settings but for ``knobs``.

    Args:
        run_id: The run that ended.
        knobs: Assignments ``knob=value``.
        others: Every other option by its name; None or empty where it was not given.

    Raises:
        BadInput: Another option was given, the run cannot be resumed, or a knob's value is not allowed.
    """
    for name, value in others.items():
        if value not in (None, "", []):
            allowed = "with --resume, only --set, --out, --models-dir, --json and --quiet"
            raise BadInput(f"--{name.replace('_', '-')}", value, allowed)
    store = Store()
    try:
        again = retry(store, run_id, dict(parse_knob(knob) for knob in knobs))
    finally:
        store.close()
    if reached(again.folder) is None:
        raise BadInput("resume", run_id, "a run that took a step; this one ended before its first")
    available(find_model(again.model))
    loras = [parse_lora(f"{file}={weight}") for file, weight in again.loras.items()]
    return Plan(again.model, again.request, again.settings, again.preset, loras, again.folder)


def parse_lora(text: str) -> tuple[Path, float]:
    """A LoRA file and its weight from ``FILE`` or ``FILE=WEIGHT``.

    Raises:
        BadInput: There is no such file, or the weight is no number.
    """
    path, weight = Path(text).expanduser(), "1"
    if not path.is_file():
        name, _, weight = text.rpartition("=")
        path = Path(name or text).expanduser()
    if not path.is_file():
        raise BadInput("--lora", path, "an existing .safetensors file, or FILE=WEIGHT")
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"--lora {path.name}", weight, "FILE=WEIGHT with a number as the weight")
    return path, number
