"""What finished runs teach: how much longer than forecast each stage takes on the card they ran on.

Nothing is fitted that a reader could not do by hand: a stage's factor is the median of measured / forecast seconds
over the few finished runs most like the one asked about; the more alike, the more one counts. Runs on one card say
nothing about another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from tuner.errors import BadInput
from tuner.forecast.compare import was_kept
from tuner.hardware import find_card
from tuner.settings import Settings

_MOST_ALIKE = 5
_AS_GOOD_AS_SAME = 0.1
"""Distance below which a run counts hardly less than one that is the same."""

_SMALLEST, _LARGEST = 0.05, 20.0
"""A factor beyond these is a machine that was busy with something else, or asleep."""

_OTHER_MODEL = 1.0
_APART: Mapping[str, Mapping[str, float]] = {
    "denoise": {"batch_size": 0.5, "step_cache_threshold": 1.0},
    "decode": {"layout": 2.0, "chunk_size": 0.5},
}
"""How far apart two runs' stages are whose settings differ in one of these; e times the seconds is 1."""


class StageLearned(TypedDict):
    """What one stage's seconds were multiplied by, and on how many runs that rests."""

    factor: float
    runs: int


class WasLearned(TypedDict):
    """What went into a forecast: finished runs on the card with this engine and precision; factors by stage."""

    runs: int
    stages: dict[str, StageLearned]


@dataclass(frozen=True)
class FinishedRun:
    """A run that came to its end.

    Attributes:
        model: Name or folder.
        settings: The knobs.
        forecast: What it was forecast to cost, as ``tuner forecast --json`` prints it.
        measured: As in the JSON of ``tuner run``.
    """

    model: str
    settings: Settings
    forecast: Mapping[str, Any]
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class _Lesson:
    """One stage of one finished run: seconds forecast before learning (of a step, in denoise), measured / that."""

    model: str
    settings: Settings
    seconds: float
    ratio: float


@dataclass(frozen=True)
class _Group:
    """Runs that compare: one card, engine, precision, attention and way to leave steps out."""

    gpu: str
    engine: str
    precision: str
    attention: str
    step_cache: str


class Learned:
    """What runs taught. Empty, it changes nothing.

    Args:
        runs: The newest first: of equally like ones these count.
    """

    def __init__(self, runs: Iterable[FinishedRun] = ()) -> None:
        self._runs: dict[_Group, int] = {}
        self._lessons: dict[tuple[_Group, str], list[_Lesson]] = {}
        for run in runs:
            self._take(run)

    def factors(self, forecast: Mapping[str, Any], settings: Settings, model: str | Path) -> WasLearned | None:
        """What to multiply each stage's seconds by; None when no run on that card says anything.

        Args:
            forecast: As ``tuner forecast --json`` prints it, nothing learned in it.
            settings: The knobs it is for.
            model: Name or folder.
        """
        if not self._lessons:
            return None
        group = _group(forecast["gpu"], settings)
        found: dict[str, StageLearned] = {}
        for stage in forecast["stages"]:
            lessons = self._lessons.get((group, stage["name"]))
            seconds = _unit(stage["seconds"], stage["name"], forecast)
            if lessons and seconds > 0:
                asked = _Lesson(Path(model).name, settings, seconds, 1.0)
                distance = partial(_distance, asked, stage["name"])
                alike = sorted(lessons, key=distance)[:_MOST_ALIKE]
                middle = _weighted_median([(one.ratio, 1 / (_AS_GOOD_AS_SAME + distance(one))) for one in alike])
                factor = min(_LARGEST, max(_SMALLEST, middle))
                found[stage["name"]] = {"factor": factor, "runs": len(alike)}
        return {"runs": self._runs[group], "stages": found} if found else None

    def _take(self, run: FinishedRun) -> None:
        try:
            group = _group(run.forecast["gpu"], run.settings)
        except BadInput:
            return  # a card that is no longer in the table
        measured = {stage["name"]: stage for stage in run.measured["stages"]}
        before = run.forecast.get("learned", {"stages": {}})["stages"]
        taught = False
        for stage in run.forecast["stages"]:
            name, seen = stage["name"], measured.get(stage["name"])
            seconds = stage["seconds"] / before.get(name, {"factor": 1.0})["factor"]
            if seen is None or seconds <= 0 or seen["seconds"] <= 0 or was_kept(stage, seen):
                continue
            unit, ratio = _unit(seconds, name, run.forecast), seen["seconds"] / seconds
            lesson = _Lesson(Path(run.model).name, run.settings, unit, ratio)
            self._lessons.setdefault((group, name), []).append(lesson)
            taught = True
        if taught:
            self._runs[group] = self._runs.get(group, 0) + 1


def _group(gpu: str, settings: Settings) -> _Group:
    precision = find_card(gpu).check_precision(settings.precision)
    obeyed = Settings() if settings.engine == "stock" else settings
    return _Group(gpu, settings.engine, precision, obeyed.attention, obeyed.step_cache)


def _unit(seconds: float, stage: str, forecast: Mapping[str, Any]) -> float:
    """Seconds of a stage, or of one of its steps: more steps are not a larger clip."""
    return seconds / max(1, len(forecast["step_seconds"])) if stage == "denoise" else seconds


def _weighted_median(weighted: list[tuple[float, float]]) -> float:
    """The value that has half of the weight on either side; between two where both have."""
    ordered = sorted(weighted)
    half, below = sum(weight for _, weight in ordered) / 2, 0.0
    for place, (value, weight) in enumerate(ordered):
        below += weight
        if math.isclose(below, half) and place + 1 < len(ordered):
            return (value + ordered[place + 1][0]) / 2
        if below > half:
            return value
    return ordered[-1][0]


def _distance(one: _Lesson, stage: str, other: _Lesson) -> float:
    apart = abs(math.log(one.seconds / other.seconds)) + _OTHER_MODEL * (one.model != other.model)
    if one.settings.engine == "stock":
        return apart  # which obeys none of these knobs
    for knob, distance in _APART.get(stage, {}).items():
        apart += distance * (getattr(one.settings, knob) != getattr(other.settings, knob))
    return apart
