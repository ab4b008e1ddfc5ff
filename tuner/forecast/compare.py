"""A forecast beside what was measured: how far off it was, by stage and in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

_KEPT_SHARE = 0.1
"""A stage that held and took less than this part of what was forecast did not run: its result was kept."""

_SHORTEST = 0.05
"""Seconds of a stage below which its time says nothing."""


class Error(TypedDict):
    """(forecast - measured) / measured; None where nothing was measured to compare with."""

    peak: float | None
    seconds: float | None


class StageError(Error):
    """One stage's."""

    name: str


class Errors(Error):
    """The whole run's, and those of its stages that ran and were forecast."""

    stages: list[StageError]


def errors(forecast: Mapping[str, Any], measured: Mapping[str, Any]) -> Errors:
    """How far a forecast was off.

    A stage whose result was kept from an earlier run (the same prompt or picture) is left out, and so is the
    writing of the clip, which no forecast knows. The seconds of the run are those of the stages that remain.

    Args:
        forecast: As ``tuner forecast --json`` prints it.
        measured: As in the JSON of ``tuner run``.
    """
    held = {stage["name"]: stage for stage in measured["stages"]}
    pairs = [(stage, held[stage["name"]]) for stage in forecast["stages"] if stage["name"] in held]
    pairs = [(foreseen, seen) for foreseen, seen in pairs if not was_kept(foreseen, seen)]
    return {
        "peak": _off(forecast["peak_allocated_bytes"], measured["peak_allocated_bytes"]),
        "seconds": _off(sum(one["seconds"] for one, _ in pairs), sum(seen["seconds"] for _, seen in pairs)),
        "stages": [
            {
                "name": foreseen["name"],
                "peak": _off(foreseen["peak_allocated_bytes"], seen["peak_allocated_bytes"]),
                "seconds": _off(foreseen["seconds"], seen["seconds"]) if seen["seconds"] >= _SHORTEST else None,
            }
            for foreseen, seen in pairs
        ],
    }


def was_kept(foreseen: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """Whether a stage, forecast and measured, was not made but taken from an earlier run."""
    return seen["peak_allocated_bytes"] < _KEPT_SHARE * foreseen["peak_allocated_bytes"] and (
        seen["seconds"] < _KEPT_SHARE * foreseen["seconds"]
    )


def _off(forecast: float, measured: float) -> float | None:
    return forecast / measured - 1 if measured else None
