"""The table of runs: records in, markup out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Any

from tuner.forecast.compare import errors
from tuner.runs import RunRecord
from tuner.settings import GIB
from tuner.ui.knobs import MIB
from tuner.ui.words import both

_COLUMNS = (
    "when",
    "model",
    "preset",
    "settings",
    "clip",
    "status",
    "peak",
    "seconds",
    "step_time",
    "forecast_error",
)


def memory(amount: float) -> str:
    """Bytes as a person reads them, such as ``9.87 GiB``."""
    if amount >= GIB:
        return f"{amount / GIB:.2f} GiB"
    return f"{amount / MIB:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``4.2 s``, ``2:43``, ``1:02:03``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def status_key(status: str) -> str:
    """The word for a run's status."""
    return f"status_{status.replace(' ', '_')}"


def knob_summary(settings: Mapping[str, Any]) -> str:
    """The four knobs in one short line; the stock engine has none."""
    if settings.get("engine") == "stock":
        return "stock"
    chunk = settings.get("chunk_size", 0)
    capacity = memory(float(settings.get("cache_capacity", 0)) * GIB)
    parts = (f"{chunk or 'all'} f", f"×{settings.get('batch_size', 1)}", capacity, settings.get("layout", ""))
    return " · ".join(str(part) for part in parts)


def seconds_per_step(measured: Mapping[str, Any]) -> float | None:
    """Mean seconds of a step, the first left out when there are more: it carries the warm-up."""
    steps = measured.get("step_seconds") or []
    counted = steps[1:] or steps
    return sum(counted) / len(counted) if counted else None


def _when(created: str) -> str:
    moment = datetime.fromisoformat(created).astimezone()
    return moment.strftime("%m-%d %H:%M:%S")


def percent_off(share: float | None) -> str:
    """An error as a person reads it: ``+1.8 %``."""
    return "–" if share is None else f"{round(100 * share, 1) + 0.0:+.1f} %".replace("-", "−")


def forecast_error(record: RunRecord) -> str:
    """How far a run's forecast was off, as markup: memory, then time."""
    if not record.forecast or not record.measured:
        return "–"
    off = errors(record.forecast, record.measured)
    return f"{percent_off(off['peak'])} · {percent_off(off['seconds'])}"


def _row(record: RunRecord, shown: str) -> str:
    request, measured = record.request, record.measured or {}
    per_step = seconds_per_step(measured)
    size = f"{request.get('width')}×{request.get('height')} · {request.get('frames')} f"
    status = both(status_key(record.status))
    clips = request.get("num_clips", 1)
    clip = f"{size} · {request.get('steps')} st" + (f" · ×{clips}" if clips > 1 else "")
    cells = (
        f'<button type="button" class="link" data-do="show">{escape(_when(record.created))}</button>',
        escape(record.model),
        escape(record.preset),
        escape(knob_summary(record.settings)),
        f'<span title="{escape(str(request.get("prompt", "")))}">{escape(clip)}</span>',
        f'<span class="pill" data-status="{escape(record.status)}">{status}</span>',
        escape(memory(measured["peak_allocated_bytes"])) if measured else "–",
        escape(duration(measured["seconds"])) if measured else "–",
        f"{per_step:.2f} s" if per_step is not None else "–",
        forecast_error(record),
        f'<button type="button" class="small" data-do="reuse">{both("use_settings")}</button>',
    )
    marked = ' class="shown"' if record.id == shown else ""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr data-run="{escape(record.id)}"{marked}>{body}</tr>'


def table(records: Iterable[RunRecord], shown: str = "") -> str:
    """The runs as an HTML table.

    Args:
        records: Newest first.
        shown: Id of the run whose curves the page shows.
    """
    rows = "".join(_row(record, shown) for record in records)
    if not rows:
        return f'<p class="empty">{both("no_runs")}</p>'
    head = "".join(f"<th>{both(column)}</th>" for column in _COLUMNS)
    body = f"<thead><tr>{head}<th></th></tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="runs">{body}</table></div>'
