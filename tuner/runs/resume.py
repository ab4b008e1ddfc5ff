"""Ended runs whose clip can still be made: from the latents they reached, or anew with smaller settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.machine import check_capacity
from tuner.presets import read_preset
from tuner.request import Request
from tuner.runs.store import RunRecord, Store
from tuner.settings import Settings

LATENTS_FILE = "latents.safetensors"
PRESET_FILE = "preset.toml"


@dataclass(frozen=True)
class Reached:
    """How many denoising steps a run has taken, of how many."""

    done: int
    steps: int


def reached(folder: Path) -> Reached | None:
    """How far the latents in a run's folder go, read without torch; None when there are none to go on from."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / LATENTS_FILE, "np") as file:
            facts = json.loads((file.metadata() or {})["progress"])
            return Reached(facts["done"], facts["steps"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Retry:
    """An ended run, to be made after all.

    Attributes:
        model: Name or folder of the model.
        request: What to make, as it was.
        settings: How to make it now.
        preset: Name of the preset it started from, with a star where the settings are others since.
        loras: Files that were merged into the model, and how much of each.
        folder: Of the ended run.
    """

    model: str
    request: Request
    settings: Settings
    preset: str
    loras: dict[str, float]
    folder: Path


def retry(store: Store, run_id: str, changes: Mapping[str, Any]) -> Retry:
    """An ended run with other settings.

    Args:
        store: Where it is written down.
        run_id: Its id.
        changes: Knobs that are to be other than they were.

    Raises:
        BadInput: There is no such run, it goes on or is done, or a change is not allowed.
    """
    record = store.get(run_id)
    if record is None:
        raise BadInput("resume", run_id, "the id of a run in the history")
    if record.active:
        raise BadInput("resume", run_id, f"a run that has ended; this one is {record.status}")
    if record.status == "done":
        raise BadInput("resume", run_id, "a run that ended early; this one is done")
    folder = store.folder(run_id)
    before = Settings(**record.settings)
    settings = before.replace(**changes)
    check_capacity(settings)
    return Retry(
        record.model,
        Request(**record.request),
        settings,
        record.preset if settings == before else _starred(record),
        read_preset(folder / PRESET_FILE).loras,
        folder,
    )


def _starred(record: RunRecord) -> str:
    return record.preset if record.preset.endswith("*") or not record.preset else f"{record.preset} *"


def suggested(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The smaller settings that a run's last event suggests, if it does."""
    return dict(events[-1].get("suggestion") or {}) if events else {}
