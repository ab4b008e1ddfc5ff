"""Four ways to spend memory, side by side on one request: ``tuner bench strategies``.

Every round runs all of them in turn, so that a machine that slows down slows all of them; the table shows
medians. What was encoded is forgotten before each run, so that none profits from another.

Transfers per step are those of a step after the first, which also brings what stays. Diffusers' own forward copies
its rotary tables to the card for every block anew; no CPU can show that, so those copies are counted on paper
(:mod:`tuner.bench.paper`) and added to stock's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, median_high
from typing import Any

import torch

from tuner.bench.copies import no_transfers, one_way, plus
from tuner.bench.files import check_place, write_result
from tuner.bench.machine import Others, these_versions, this_machine, today
from tuner.bench.paper import step_on_paper
from tuner.bench.reports import strategies_tables
from tuner.engine.generate import Result, generate
from tuner.errors import OutOfMemory
from tuner.meter.events import Event, StageStarted, StepDone, Transferred
from tuner.meter.measured import Measured, TransfersMeasured
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.request import Request
from tuner.settings import GIB, Settings

START_IMAGE = Path(__file__).resolve().parents[2] / "assets" / "samples" / "astronaut.jpg"
BASELINE = "stock"
_EVERYTHING = Settings().cache_capacity

COMBINED = "combined"
_WARM_UP_STEPS = 4
_OF_BLOCKS = 1.5
"""The combined cache over the bytes of the transformer's blocks: these stay, and most features of the VAE."""


@dataclass
class Measurements:
    """What one strategy cost, run after run.

    Attributes:
        name: Of the strategy.
        settings: Its knobs.
        runs: One entry per run that ended well.
        per_step: Copies of one step, once known.
        difference: Largest absolute difference from the baseline's frames, video range 0..1; None without one.
        status: ``done``, or ``out of memory`` once a run ended so.
    """

    name: str
    settings: Settings
    runs: list[Measured] = field(default_factory=list)
    per_step: TransfersMeasured = field(default_factory=no_transfers)
    difference: float | None = None
    status: str = "done"

    def to_json(self, frames: int) -> dict[str, Any]:
        """The row of the result: medians over the runs, under the names that ``tuner run --json`` uses."""
        row = {"name": self.name, "status": self.status, "settings": self.settings.model_dump(mode="json")}
        if self.status != "done":
            return row
        measured = median_of(self.runs)
        return {
            **row,
            **measured,
            "seconds_per_frame": measured["seconds"] / frames,
            "seconds_of_each_run": [run["seconds"] for run in self.runs],
            "transfers_per_step": self.per_step,
            "largest_difference": self.difference,
        }


def run(
    *,
    model: str = "demo",
    width: int = 128,
    height: int = 128,
    frames: int = 49,
    steps: int = 8,
    repeats: int = 1,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure every strategy and print the table.

    Args:
        model: Name or folder of the model.
        width: Pixels.
        height: Pixels.
        frames: Video frames.
        steps: Denoising steps.
        repeats: Runs of each strategy, after one short run that is not counted.
        out: Also write the result there as JSON, and the table beside it as Markdown.

    Returns:
        The result: machine, versions, date, request and one row per strategy.

    Raises:
        BadInput: The model is not there, a size is not allowed, or ``out`` cannot be written.
    """
    check_place(out)
    request = Request(
        prompt="a portrait, the camera moves closer",
        start_image=START_IMAGE,
        width=width,
        height=height,
        frames=frames,
        steps=steps,
        seed=1,
    )
    components = load_model(model)
    with Others() as others:
        rows = measure(request, components, repeats)
    listed = [row.to_json(frames) for row in rows]
    result = {
        "bench": "strategies",
        "command": f"tuner bench strategies --model {components.name} --width {width} --height {height}"
        f" --frames {frames} --steps {steps} --repeats {repeats}",
        "date": today(),
        "machine": this_machine(components.device),
        "versions": these_versions(),
        "other_programs_cores": others.cores,
        "precision": str(components.dtype).removeprefix("torch."),
        "request": {"width": width, "height": height, "frames": frames, "steps": steps, "start_image": True},
        "repeats": repeats,
        "combined_of_stock": of_baseline(listed, COMBINED),
        "rows": listed,
    }
    tables = strategies_tables(result)
    print(tables)
    print(f"Other programs used {others.cores:.1f} of {os.cpu_count()} cores meanwhile.")
    if out:
        write_result(out, result, tables)
    return result


def measure(request: Request, components: Components, repeats: int) -> list[Measurements]:
    """Run every strategy ``repeats`` times in turn; one that runs out of memory is not tried again."""
    rows = [Measurements(name, settings) for name, settings in strategies(components).items()]
    size = request.width, request.height, request.frames
    hidden = step_on_paper(components.transformer, components.vae, size).copies
    short = request.replace(steps=min(request.steps, _WARM_UP_STEPS))
    reference: torch.Tensor | None = None
    for turn in range(repeats + 1):
        for row in rows:
            if row.status != "done":
                continue
            try:
                result, per_step = _one_run(
                    request if turn else short,
                    row,
                    components,
                    f"run {turn} of {repeats}:" if turn else "warm-up:",
                )
            except OutOfMemory as error:
                row.status = error.status
                print(error, file=sys.stderr)
                continue
            if turn:
                if row.name == BASELINE and reference is None:
                    reference = result.frames
                row.runs.append(result.measured)
                row.per_step = plus(per_step, hidden) if row.name == BASELINE else per_step
                row.difference = _larger(row.difference, largest_difference(result.frames, reference))
    return rows


def strategies(components: Components) -> dict[str, Settings]:
    """The four ways for that model; the combined one caches by the size of the transformer's blocks."""
    blocks = sum(tensor.nbytes for tensor in components.transformer.transformer_blocks.parameters())
    return {
        BASELINE: Settings(engine="stock"),
        "chunked": Settings(chunk_size=4, layout="chunked", cache_capacity=0.0),
        "cached": Settings(chunk_size=4, layout="contiguous", cache_capacity=_EVERYTHING),
        COMBINED: Settings(
            chunk_size=1,
            layout="chunked",
            cache_capacity=min(_EVERYTHING, _OF_BLOCKS * blocks / GIB),
            batch_size=1,
        ),
    }


def _one_run(
    request: Request, row: Measurements, components: Components, turn: str
) -> tuple[Result, TransfersMeasured]:
    """A whole generation, the mp4 and all, that finds nothing encoded; and the copies of one of its steps."""
    components.encodings.clear()
    events: list[Event] = []
    print(f"{turn} {row.name} ... ", end="", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = generate(
            request,
            row.settings,
            components,
            on_event=events.append,
            return_frames=True,
            output_dir=folder,
        )
    print(f"{result.measured['seconds']:.2f} s", file=sys.stderr)
    return result, transfers_per_step(events)


def transfers_per_step(events: Iterable[Event]) -> TransfersMeasured:
    """Copies of the last denoising step: the first one also brings what stays."""
    copied = last = no_transfers()
    for event in events:
        if isinstance(event, StageStarted):
            copied = no_transfers()
        elif isinstance(event, Transferred):
            copied = plus(copied, one_way(event.direction, event.count, event.bytes))
        elif isinstance(event, StepDone):
            copied, last = no_transfers(), copied
    return last


def of_baseline(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float] | None:
    """What the strategy ``name`` takes as a part of what stock takes; None if one of them did not end well."""
    by_name = {row["name"]: row for row in rows if row["status"] == "done"}
    if BASELINE not in by_name or name not in by_name:
        return None
    one, stock = by_name[name], by_name[BASELINE]
    paired = zip(one["seconds_of_each_run"], stock["seconds_of_each_run"], strict=True)
    return {
        "peak_allocated_bytes": one["peak_allocated_bytes"] / stock["peak_allocated_bytes"],
        "seconds": median(own / base for own, base in paired),
        "transfers_per_step_bytes": _bytes(one["transfers_per_step"]) / _bytes(stock["transfers_per_step"]),
    }


def _bytes(transfers: TransfersMeasured) -> int:
    return transfers["h2d_bytes"] + transfers["d2h_bytes"]


def largest_difference(frames: torch.Tensor | None, reference: torch.Tensor | None) -> float | None:
    """Largest absolute difference between two clips ``[B, T, H, W, 3]``; None when one is missing."""
    if frames is None or reference is None:
        return None
    return (frames - reference).abs().max().item()


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def median_of(runs: Sequence[Measured]) -> Measured:
    """The median of every figure over runs of the same request with the same settings."""
    first = runs[0]
    return {
        "peak_allocated_bytes": median_high(run["peak_allocated_bytes"] for run in runs),
        "peak_reserved_bytes": median_high(run["peak_reserved_bytes"] for run in runs),
        "fragmentation": median(run["fragmentation"] for run in runs),
        "seconds": median(run["seconds"] for run in runs),
        "step_seconds": [median(step) for step in zip(*(run["step_seconds"] for run in runs), strict=True)],
        "stages": [
            {
                "name": stages[0]["name"],
                "seconds": median(stage["seconds"] for stage in stages),
                "peak_allocated_bytes": median_high(stage["peak_allocated_bytes"] for stage in stages),
            }
            for stages in zip(*(run["stages"] for run in runs), strict=True)
        ],
        "transfers": first["transfers"],
        "cache": first["cache"],
    }
