"""A card's memory over a rehearsed run, moment by moment, as a table and as a chart."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go

from tuner.errors import BadInput
from tuner.forecast.allocator import Allocator
from tuner.forecast.clock import Clock
from tuner.forecast.ledger import Ledger
from tuner.forecast.trace import Born, Died, Entry, Repeated
from tuner.settings import GIB

_POINTS = 20_000


class Moment(NamedTuple):
    """When memory was taken or given back.

    Attributes:
        seconds: Since the run began; steps that were not rehearsed are left out.
        stage: Empty before the first one.
        allocated_bytes: In live tensors.
        reserved_bytes: Held by the allocator.
    """

    seconds: float
    stage: str
    allocated_bytes: int
    reserved_bytes: int


def moments(entries: Iterable[Entry], ledger: Ledger, clock: Clock, allocator: Allocator) -> list[Moment]:
    """Every moment of a trace at which memory changes.

    Args:
        entries: The trace.
        ledger: Has taken nothing yet.
        clock: Likewise.
        allocator: The ledger's.
    """
    found: list[Moment] = []
    for entry in _one_by_one(entries):
        clock.take(entry)
        ledger.take(entry)
        if isinstance(entry, Born | Died):
            stage = ledger.stages[-1].stage if ledger.stages else ""
            found.append(Moment(clock.seconds, stage, allocator.allocated, allocator.reserved))
    return found


def stretched(found: Sequence[Moment], factors: Mapping[str, float]) -> list[Moment]:
    """The same moments where each stage named in ``factors`` takes so many times its seconds."""
    made: list[Moment] = []
    before = now = 0.0
    for moment in found:
        now += (moment.seconds - before) * factors.get(moment.stage, 1.0)
        before = moment.seconds
        made.append(moment._replace(seconds=now))
    return made


def _one_by_one(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if isinstance(entry, Repeated):
            yield from entry.segment.entries
        else:
            yield entry


def write_timeline(place: Path, found: Sequence[Moment], title: str, limit_bytes: int | None) -> list[Path]:
    """Write every moment as CSV, and a chart beside it as HTML that needs no network.

    Args:
        place: With whatever suffix; ``.csv`` and ``.html`` are written.
        found: From :func:`moments`.
        title: Above the chart.
        limit_bytes: What the card has.

    Raises:
        BadInput: The files cannot be written.
    """
    table, chart = place.with_suffix(".csv"), place.with_suffix(".html")
    try:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Moment._fields)
            writer.writerows(found)
        figure(found, title, limit_bytes).write_html(chart, include_plotlyjs=True)
    except OSError as error:
        raise BadInput("--timeline", place, f"a place that can be written ({error.strerror})") from None
    return [table, chart]


def figure(found: Sequence[Moment], title: str, limit_bytes: int | None) -> go.Figure:
    """Allocated and reserved memory over time, the stages as bands, the card's memory as a line."""
    shown = _thinned(found)
    seconds = [moment.seconds for moment in shown]
    chart = go.Figure()
    for name, values in (
        ("allocated", [moment.allocated_bytes / GIB for moment in shown]),
        ("reserved", [moment.reserved_bytes / GIB for moment in shown]),
    ):
        chart.add_scatter(x=seconds, y=values, name=name, mode="lines", line={"shape": "hv", "width": 1})
    for number, (stage, begins, ends) in enumerate(_bands(found)):
        chart.add_vrect(
            x0=begins,
            x1=ends,
            annotation_text=stage,
            fillcolor="gray",
            opacity=0.06 * (number % 2 + 1),
            line_width=0,
        )
    if limit_bytes is not None:
        chart.add_hline(y=limit_bytes / GIB, line_dash="dash", annotation_text="the card's memory")
    chart.update_layout(title=title, xaxis_title="seconds", yaxis_title="GiB", template="plotly_white")
    return chart


def _thinned(found: Sequence[Moment]) -> list[Moment]:
    """At most some thousand moments, the highest of each stretch."""
    stretch = max(1, len(found) // _POINTS)
    return [
        max(found[start : start + stretch], key=lambda moment: moment.allocated_bytes)
        for start in range(0, len(found), stretch)
    ]


def _bands(found: Sequence[Moment]) -> list[tuple[str, float, float]]:
    bands: list[tuple[str, float, float]] = []
    for moment in found:
        if bands and bands[-1][0] == moment.stage:
            bands[-1] = (moment.stage, bands[-1][1], moment.seconds)
        else:
            bands.append((moment.stage, moment.seconds, moment.seconds))
    return bands
