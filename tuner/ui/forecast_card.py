"""The forecast card: what a run will cost on a card, drawn from JSON as markup in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from json import dumps
from typing import Any, Literal

from tuner.hardware import CARDS, Card
from tuner.machine import Machine, card_of
from tuner.settings import GIB, KNOBS, Text
from tuner.ui.history import duration, memory
from tuner.ui.words import WORDS, both, both_of

PARTS = ("weights", "activations", "features", "workspace")
"""What the bytes of a stage are for, in the order they are stacked."""

Level = Literal["ok", "tight", "no"]

_TIGHT = 0.05
_ZOOM_BELOW = 0.2
_ZOOMED_SHARE = 0.7


def limit_of(card: Card, machine: Machine) -> int:
    """Bytes that a run can have on ``card``; on a CPU the computer's own memory."""
    return card.usable_bytes or machine.memory_bytes


def targets(machine: Machine) -> tuple[list[Card], Card | None]:
    """The cards to choose from, this machine's first, and which one that is; None where it is in no table."""
    here = card_of(machine)
    return sorted(CARDS.values(), key=lambda card: card != here), here


def level_of(forecast: Mapping[str, Any], limit_bytes: int) -> Level:
    """Whether it fits, with less than a twentieth to spare, or not."""
    if not forecast["fits"]:
        return "no"
    return "tight" if forecast["peak_allocated_bytes"] > limit_bytes * (1 - _TIGHT) else "ok"


def chooser(machine: Machine) -> str:
    """The menu of cards; every card but this machine's is marked as simulated."""
    cards, here = targets(machine)
    options = []
    for card in cards:
        size = f" · {limit_of(card, machine) / GIB:.1f} GiB"
        if card == here:
            title = escape(machine.name if machine.device == "cuda" else "CPU") + size
            options.append(f'<option value="{card.name}" data-here="true">{title}</option>')
        elif not card.is_cpu:
            options.append(f'<option value="{card.name}">{escape(card.title)}{size}</option>')
    return f'<select aria-label="GPU">{"".join(options)}</select>'


def frame(machine: Machine) -> str:
    """What of the card stays: its head with the menu of cards, and the places for the rest."""
    key = "".join(f'<span><i class="{part}"></i>{both(part)}</span>' for part in PARTS)
    return (
        f'<div class="head"><small>{both("forecast")}</small>{chooser(machine)}'
        f'<span class="simulated" title="{escape(WORDS["simulated_help"].en)}">{both("simulated")}</span></div>'
        f'<div class="body" aria-live="polite"><p class="wait">{both("forecast_wait")}</p></div>'
        f'<div class="advice" aria-live="polite"></div><p class="seek">{both("seeking")}</p>'
        f'<div class="foot"><p class="key">{key}</p>'
        f'<button type="button" class="fit" data-do="fit">{both("fit")}</button></div>'
    )


def body(forecast: Mapping[str, Any], limit_bytes: int) -> str:
    """Bars, time and verdict.

    Args:
        forecast: As ``tuner forecast --json`` prints it.
        limit_bytes: What a run can have on the card.
    """
    peak = forecast["peak_allocated_bytes"]
    zoomed = peak < limit_bytes * _ZOOM_BELOW
    scale = peak / _ZOOMED_SHARE if zoomed else max(limit_bytes, peak) * 1.02
    rows = "".join(_row(stage, scale, 0 if zoomed else limit_bytes) for stage in forecast["stages"])
    return f"{rows}{_sum(forecast)}{_learned(forecast)}{_verdict(forecast, limit_bytes)}"


def _row(stage: Mapping[str, Any], scale: float, limit_bytes: int) -> str:
    split, peak = stage["split"], stage["peak_allocated_bytes"]
    parts = "".join(
        f'<i class="{part}" style="width:{100 * split[part] / scale:.2f}%"></i>' for part in PARTS if split[part]
    )
    line = f'<u style="left:{100 * limit_bytes / scale:.2f}%"></u>' if limit_bytes else ""
    told = " · ".join(f"{WORDS[part].en} {memory(split[part])}" for part in PARTS if split[part])
    name = both(f"short_{stage['name'].replace(' ', '_')}")
    over = ' class="over"' if limit_bytes and peak > limit_bytes else ""
    return (
        f'<div class="row" title="{escape(told)}"><span>{name}</span><span class="stack">{parts}{line}</span>'
        f"<b{over}>{memory(peak)}</b></div>"
    )


def _sum(forecast: Mapping[str, Any]) -> str:
    steps = forecast["step_seconds"]
    moved = sum(stage["transfers"]["h2d_bytes"] + stage["transfers"]["d2h_bytes"] for stage in forecast["stages"])
    per_step = f"{steps[-1]:.2f} s{both('a_step')}" if steps else ""
    figures = f"{per_step} · {memory(moved)} {both('moved')}"
    return f'<p class="sum"><b>{duration(forecast["seconds"])}</b><small>{figures}</small></p>'


def _learned(forecast: Mapping[str, Any]) -> str:
    """How many finished runs corrected the times; nothing where none did."""
    if "learned" not in forecast:
        return ""
    runs = forecast["learned"]["runs"]
    words = _filled("learned_one" if runs == 1 else "learned", runs=str(runs))
    return f'<p class="learned">{both_of(words)}</p>'


def _verdict(forecast: Mapping[str, Any], limit_bytes: int) -> str:
    level = level_of(forecast, limit_bytes)
    if level == "no":
        need = max(forecast["peak_allocated_bytes"], forecast["peak_reserved_bytes"])
        words = _filled("does_not_fit", over=memory(max(0, need - limit_bytes)), limit=memory(limit_bytes))
    else:
        key = "fits_tightly" if level == "tight" else "fits"
        words = _filled(
            key, spare=memory(limit_bytes - forecast["peak_allocated_bytes"]), limit=memory(limit_bytes)
        )
    return f'<p class="verdict">{both_of(words)}</p>'


def refused(line: Text) -> str:
    """A line in place of bars."""
    return f'<p class="refused">{both_of(line)}</p>'


def advice(changes: Mapping[str, Any], forecast: Mapping[str, Any] | None) -> str:
    """A change that makes it fit, to be clicked; nothing where there is none.

    Args:
        changes: Knobs, or ``width`` and ``height``, and the values they are to get.
        forecast: What it costs then.
    """
    if not changes or forecast is None:
        return ""
    text = both_of(change_words(changes))
    cost = f"<small>{duration(forecast['seconds'])}</small>"
    return (
        f'<button type="button" data-do="take" data-changes="{escape(dumps(dict(changes)))}">{text}{cost}</button>'
    )


def change_words(changes: Mapping[str, Any]) -> Text:
    """Changes as a person reads them: ``chunk size → 4``."""
    if set(changes) == {"width", "height"}:
        size = f"{changes['width']}×{changes['height']}"
        return Text(f"size → {size}", f"尺寸 → {size}")
    values = {name: _value(name, value) for name, value in changes.items()}
    titles = {name: KNOBS[name].title for name in changes}
    return Text(
        ", ".join(f"{titles[name].en.lower()} → {value}" for name, value in values.items()),
        "，".join(f"{titles[name].zh} → {value}" for name, value in values.items()),
    )


def _value(name: str, value: Any) -> str:
    if name == "cache_capacity":
        return memory(value * GIB) if value else "0"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _filled(key: str, **values: str) -> Text:
    return Text(*(text.format(**values) for text in WORDS[key]))
