"""Ways side by side in one process: what each holds and moves, then seconds in alternating rounds.

Memory and copies are looked at first, in calls that are not timed (on a CPU the looking takes time). Then every
round runs all ways in turn, each second round backwards, so that a machine that slows down slows all of them; a
way's ratio is the median over its rounds of its seconds / the first way's in the same round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tuner.bench.copies import Copies, minus, no_transfers, plus
from tuner.bench.difference import Difference, difference
from tuner.bench.paper import OnPaper
from tuner.bench.rates import Rates, synchronize
from tuner.bench.ways import Way
from tuner.errors import OutOfMemory
from tuner.meter.events import Stage
from tuner.meter.measured import TransfersMeasured
from tuner.meter.meter import Meter

DONE = "done"


@dataclass
class Look:
    """What one way gave, held and moved.

    Attributes:
        output: float32 on the host; None once it was compared, or when memory ran out.
        peak_allocated_bytes: Highest during first and later calls, weights included.
        peak_reserved_bytes: Likewise, of what the allocator held.
        first: Copies of the first call, which also brings what stays.
        again: Copies of a later call; those of the first where there is no later one.
        uncounted_bytes: Copied in the first call as seen from outside, less what the way counted itself.
        left_bytes: More device memory held after the way was closed than before it was opened.
        seconds: Of each timed call.
        status: ``done`` or ``out of memory``.
    """

    output: Tensor | None = None
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    first: TransfersMeasured = field(default_factory=no_transfers)
    again: TransfersMeasured = field(default_factory=no_transfers)
    uncounted_bytes: int = 0
    left_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    status: str = DONE


def look(way: Way, device: torch.device, stage: Stage, wants_more: Callable[[Sequence[float]], bool]) -> Look:
    """Open ``way``, call it once and then as long as ``wants_more`` (asked with the seconds so far) says so.

    A card that runs out of memory is told in the status; anything else is raised.
    """
    found, before = Look(), _allocated(device)
    try:
        _look_into(found, way, device, stage, wants_more)
    except torch.OutOfMemoryError:
        found.status = OutOfMemory.status
    if device.type == "cuda":
        torch.cuda.empty_cache()
    found.left_bytes = _allocated(device) - before
    return found


def _look_into(
    found: Look, way: Way, device: torch.device, stage: Stage, wants_more: Callable[[Sequence[float]], bool]
) -> None:
    copies = Copies()
    with torch.no_grad(), Meter(device) as meter, way.open(meter) as call:
        opened = meter.measured()["transfers"]
        with meter.stage(stage), copies:
            output = call()
        counted = minus(meter.measured()["transfers"], opened)
        with meter.host():
            found.output = output.float().cpu()
        del output
        found.first = found.again = counted if way.counts_itself else plus(counted, copies.counted)
        # What a way counts itself, Copies sees too; on a CPU it sees neither.
        if device.type == "cuda":
            found.first = found.again = copies.counted
            found.uncounted_bytes = _bytes(copies.counted) - _bytes(counted)
        while wants_more(found.seconds):
            already = meter.measured()["transfers"]
            with meter.stage(stage):
                began = time.perf_counter()
                call()
                meter.synchronize()
                found.seconds.append(time.perf_counter() - began)
            if way.counts_itself:
                found.again = minus(meter.measured()["transfers"], already)
        measured = meter.measured()
        found.peak_allocated_bytes = measured["peak_allocated_bytes"]
        found.peak_reserved_bytes = measured["peak_reserved_bytes"]


@dataclass
class Row:
    """A way and what was measured of it."""

    way: Way
    look: Look
    compared: Difference | None = None
    seconds: list[float] = field(default_factory=list)


def compare(ways: Sequence[Way], device: torch.device, stage: Stage, rounds: int, settles: bool) -> list[Row]:
    """Measure all ways; the first is what the others are compared with.

    Args:
        ways: Each does the same computation.
        device: Where.
        stage: Which it is.
        rounds: How often each is timed.
        settles: Whether the first call brings what later ones find; then it is not timed.
    """
    rows: list[Row] = []
    reference: Tensor | None = None
    for way in ways:
        print(f"looking at {way.name} ...", file=sys.stderr)
        row = Row(way, look(way, device, stage, lambda seconds: settles and not seconds))
        reference = row.look.output if way is ways[0] else reference
        if row.look.output is not None and reference is not None:
            row.compared = difference(row.look.output, reference)
        row.look.output = None
        rows.append(row)
    for turn in range(rounds):
        for row in reversed(rows) if turn % 2 else rows:
            if row.look.status == DONE:
                row.seconds.append(_timed(row.way, device, settles))
                print(f"round {turn + 1}, {row.way.name}: {row.seconds[-1]:.3f} s", file=sys.stderr)
    return rows


def _timed(way: Way, device: torch.device, settles: bool) -> float:
    with torch.no_grad(), way.open(Meter(device)) as call:
        if settles:
            call()
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        return time.perf_counter() - began


def row_to_json(row: Row, baseline: Sequence[float], paper: OnPaper, rates: Rates) -> dict[str, Any]:
    """The row of a result.

    What diffusers' forward copies by itself no CPU can show: there stock's ``transfers`` are those on paper, and
    ``moved_bytes_per_second`` is without them.

    Args:
        row: What was measured.
        baseline: Seconds of the first way, round by round.
        paper: What a call of stock's takes.
        rates: What the machine can do.
    """
    found, settings = row.look, row.way.settings
    result: dict[str, Any] = {
        "name": row.way.name,
        "status": found.status,
        "settings": settings.model_dump(mode="json") if settings else None,
    }
    if found.status != DONE:
        return result
    seconds, reserved = median(row.seconds), found.peak_reserved_bytes
    ratios = [one / base for one, base in zip(row.seconds, baseline, strict=True)] if baseline else []
    moved = _bytes(found.again) / seconds
    return {
        **result,
        "seconds": seconds,
        "seconds_of_each_round": row.seconds,
        "ratio": median(ratios) if ratios else None,
        "speedup": 1 / median(ratios) if ratios else None,
        "flops_per_second": paper.flops / seconds,
        "of_attainable_flops": paper.flops / seconds / rates["flops_per_second"],
        "moved_bytes_per_second": moved,
        "of_attainable_copies": moved / rates["h2d_pinned_bytes_per_second"],
        "peak_allocated_bytes": found.peak_allocated_bytes,
        "peak_reserved_bytes": reserved,
        "fragmentation": (reserved - found.peak_allocated_bytes) / reserved if reserved else 0.0,
        "first_call_transfers": found.first,
        "transfers": plus(found.again, paper.copies) if row.way.hides_copies else found.again,
        "left_bytes": found.left_bytes,
        "difference": row.compared.to_json() if row.compared else None,
    }


def _bytes(transfers: TransfersMeasured) -> int:
    return transfers["h2d_bytes"] + transfers["d2h_bytes"]


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
