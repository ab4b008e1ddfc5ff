"""Which of the bars that were set for a card the rows of ``tuner bench gpu`` reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

_LATENT_PIXELS = 16 * 16
_STREAMED_TOKENS = 13_000
_FRAMES_PER_LATENT = 4


class Bar(TypedDict):
    """One bar: the worst of the rows it is about (null if not finite), what it must be, and whether it is."""

    name: str
    value: float | None
    bar: float
    at_least: bool
    met: bool


def bars(rows: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Every bar that there are rows for."""
    done = [row for row in rows if row["status"] == "done"]
    tuned = [row for row in done if row["way"].startswith("tuned")]
    resident = [row for row in tuned if row["way"] in ("tuned", "tuned, batch 1")]
    steps = [row for row in resident if row["part"] == "denoise"]
    decodes = [row for row in resident if row["part"] == "decode"]
    found = [
        _at_most("difference in float32, relative", _differences(done, "equality", "relative"), 1e-5),
        _at_least("decoded clip against stock, dB", _differences(tuned, "decode", "psnr_db"), 45.0),
        _at_most("resident step, time / stock", [row["ratio"] for row in steps if row["ratio"]], 1.0),
        _at_most("streamed step, time / resident", list(_streamed_ratios(done)), 1.05),
        _at_most("bytes to the device per resident step", [row["transfers"]["h2d_bytes"] for row in steps], 0),
        _at_least("decode, times faster than stock", [1 / row["ratio"] for row in decodes if row["ratio"]], 2.0),
        _at_most("fragmentation", [row["fragmentation"] for row in tuned if "fragmentation" in row], 0.10),
        _at_most("bytes left over", [row["left_bytes"] for row in tuned if row["part"] == "leak"], 0),
        _at_most("bytes that the meter missed", [row["uncounted_bytes"] for row in tuned if _counts(row)], 0),
    ]
    return [bar for bar in found if bar is not None]


def _differences(rows: Iterable[Mapping[str, Any]], part: str, which: str) -> list[float | None]:
    return [row["difference"][which] for row in rows if row["part"] == part and row["difference"]]


def _streamed_ratios(rows: Sequence[Mapping[str, Any]]) -> Iterable[float]:
    """Streamed / resident seconds at sizes with enough tokens to hide a copy behind."""
    seconds = {(row["way"], _size(row)): row["seconds"] for row in rows if row["part"] == "denoise"}
    for (way, size), took in seconds.items():
        resident = seconds.get(("tuned", size))
        if way == "tuned, streamed" and resident and _tokens(*size) >= _STREAMED_TOKENS:
            yield took / resident


def _size(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return row["width"], row["height"], row["frames"]


def _tokens(width: int, height: int, frames: int) -> int:
    return width * height // _LATENT_PIXELS * ((frames - 1) // _FRAMES_PER_LATENT + 1)


def _counts(row: Mapping[str, Any]) -> bool:
    return row.get("uncounted_bytes") is not None


def _at_most(name: str, values: Sequence[float | None], bar: float) -> Bar | None:
    worst = _worst(values, max)
    met = worst is not None and worst <= bar
    return {"name": name, "value": worst, "bar": bar, "at_least": False, "met": met} if values else None


def _at_least(name: str, values: Sequence[float | None], bar: float) -> Bar | None:
    worst = _worst(values, min)
    met = worst is not None and worst >= bar
    return {"name": name, "value": worst, "bar": bar, "at_least": True, "met": met} if values else None


def _worst(values: Sequence[float | None], of: Callable[[Iterable[float]], float]) -> float | None:
    """None if one of them is, because it was not finite."""
    known = [value for value in values if value is not None]
    return of(known) if known and len(known) == len(values) else None
