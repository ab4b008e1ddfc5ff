"""Measure all ways, say what was possible, write it: what ``tuner bench transformer`` and ``vae`` share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.bench.files import write_result
from tuner.bench.machine import Others, these_versions, this_machine, today
from tuner.bench.paper import OnPaper
from tuner.bench.rates import attainable_rates
from tuner.bench.reports import ways_report
from tuner.bench.rounds import compare, row_to_json
from tuner.bench.ways import NO_OFFLOADING, Way
from tuner.meter.events import Stage
from tuner.models.components import Components

Size = tuple[int, int, int]
"""Width and height in pixels, and frames."""


@dataclass(frozen=True)
class Part:
    """The part of a model that is measured.

    Attributes:
        bench: Name of the benchmark.
        stage: Where a generation runs it.
        settles: Whether its first call brings what later ones find.
        paper: What a call takes.
        default: The way with the knobs' default values.
    """

    bench: str
    stage: Stage
    settles: bool
    paper: OnPaper
    default: str


def measure(
    part: Part, ways: Sequence[Way], components: Components, size: Size, rounds: int, out: Path | None
) -> dict[str, Any]:
    """Measure, print the table, write the result.

    Args:
        part: What is measured.
        ways: Stock first.
        components: The model.
        size: Of the clip.
        rounds: How often each way is timed.
        out: Also write the result there as JSON, and the table beside it as Markdown.

    Returns:
        The result; ``speedup`` is that of the default settings.
    """
    device, (width, height, frames) = components.device, size
    rates = attainable_rates(device, components.dtype)
    with Others() as others:
        rows = compare(ways, device, part.stage, rounds, part.settles)
    listed = [row_to_json(row, rows[0].seconds, part.paper, rates) for row in rows]
    result = {
        "bench": part.bench,
        "command": f"tuner bench {part.bench} --model {components.name} --width {width} --height {height}"
        f" --frames {frames} --rounds {rounds}",
        "date": today(),
        "machine": this_machine(device),
        "versions": these_versions(),
        "other_programs_cores": others.cores,
        "precision": str(components.dtype).removeprefix("torch."),
        "request": {"width": width, "height": height, "frames": frames},
        "rounds": rounds,
        "attainable": rates,
        "flops": part.paper.flops,
        "stock_hidden_transfers": part.paper.copies,
        "speedup": next((row.get("speedup") for row in listed if row["name"] == part.default), None),
        "left_out": [] if device.type == "cuda" else [NO_OFFLOADING],
        "rows": listed,
    }
    report = ways_report(result)
    print(report)
    print(f"Other programs used {others.cores:.1f} of {os.cpu_count()} cores meanwhile.")
    if out:
        write_result(out, result, report)
    return result
