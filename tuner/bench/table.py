"""Benchmark results as tables: one text for the terminal, for the file beside the JSON and for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.settings import GIB, Text

_MIB = 1024**2
_NOT_RUN = "-"

_COLUMNS = (
    Text("strategy", "策略"),
    Text("peak allocated", "峰值已分配"),
    Text("peak reserved", "峰值已保留"),
    Text("fragmentation", "碎片率"),
    Text("seconds", "秒"),
    Text("s/frame", "秒/帧"),
    Text("to device", "传到设备"),
    Text("to host", "传回主机"),
    Text("largest difference", "最大差异"),
)
_STRATEGY, _SECONDS_OF = Text("strategy", "策略"), Text("seconds", "秒")
_LANGUAGES = ("en", "zh")


def strategies_tables(result: Mapping[str, Any], language: str = "en") -> str:
    """What ``tuner bench strategies`` measured: one table of costs, one of seconds per stage.

    Args:
        result: Its JSON.
        language: ``en`` or ``zh``.
    """
    column = _LANGUAGES.index(language)
    rows = result["rows"]
    stages = list(dict.fromkeys(stage["name"] for row in rows for stage in row.get("stages", [])))
    costs = table([title[column] for title in _COLUMNS], [_costs(row) for row in rows])
    times = table(
        [_STRATEGY[column], *(f"{stage}, {_SECONDS_OF[column]}" for stage in stages)],
        [[row["name"], *_stage_seconds(row, stages)] for row in rows],
    )
    return f"{costs}\n{times}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up: the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(_columns(line[i]) for line in lines)) for i in range(len(header))]
    marks = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "".join(f"| {' | '.join(_padded(line, widths))} |\n" for line in [lines[0], marks, *lines[1:]])


def in_words(bytes_: int) -> str:
    """Bytes for a person: MiB below one GiB, GiB from there."""
    return f"{bytes_ / GIB:.2f} GiB" if bytes_ >= GIB else f"{bytes_ / _MIB:.1f} MiB"


def _costs(row: Mapping[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [f"{row['name']} ({row['status']})", *[_NOT_RUN] * (len(_COLUMNS) - 1)]
    moved = row["transfers"]
    difference = row["largest_difference"]
    return [
        row["name"],
        in_words(row["peak_allocated_bytes"]),
        in_words(row["peak_reserved_bytes"]),
        f"{row['fragmentation']:.1%}",
        f"{row['seconds']:.2f}",
        f"{row['seconds_per_frame']:.3f}",
        f"{moved['h2d_count']} x, {in_words(moved['h2d_bytes'])}",
        f"{moved['d2h_count']} x, {in_words(moved['d2h_bytes'])}",
        _NOT_RUN if difference is None else f"{difference:.1e}",
    ]


def _stage_seconds(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    seconds = {stage["name"]: f"{stage['seconds']:.2f}" for stage in row.get("stages", [])}
    return [seconds.get(stage, _NOT_RUN) for stage in stages]


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    gaps = [" " * (width - _columns(cell)) for cell, width in zip(line, widths, strict=True)]
    return [cell + gap if i == 0 else gap + cell for i, (cell, gap) in enumerate(zip(line, gaps, strict=True))]


def _columns(text: str) -> int:
    """Columns that ``text`` takes in a terminal, where a Chinese character takes two."""
    return sum(2 if character >= "\u1100" else 1 for character in text)
