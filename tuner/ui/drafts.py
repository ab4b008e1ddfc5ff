"""What a person had typed before a reload: kept by the browser, checked before it is shown again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import BadInput
from tuner.models.registry import find_model
from tuner.request import FILES, Request
from tuner.settings import KNOBS
from tuner.ui.form import request_of
from tuner.ui.knobs import CacheScale, settings_of

STORAGE_KEY = "easyanimate-tuner-drafts-1"
SECRET = "drafts are no secret; a fixed word keeps them readable after a restart"

NOT_KEPT = (*FILES, "strength")
"""Widgets that a draft leaves out: files, and what only counts with one."""

FIELDS = tuple(name for name in Request.model_fields if name not in (*NOT_KEPT, "noise_aug_strength"))
"""The request fields that a draft keeps."""


def save_script(names: Sequence[str]) -> str:
    """The browser's code that turns the widgets' values, in the order of ``names``, into a draft."""
    return f"(...values) => Object.fromEntries({json.dumps(list(names))}.map((name, i) => [name, values[i]]))"


def drafted_model(draft: Mapping[str, Any], otherwise: str) -> str:
    """The model of a draft, if it is still there."""
    try:
        return find_model(str(draft["model"])).name if draft.get("model") else otherwise
    except BadInput:
        return otherwise


def drafted_knobs(draft: Mapping[str, Any], scale: CacheScale) -> dict[str, Any]:
    """The knobs of a draft whose values are still allowed."""
    kept = {}
    for name in KNOBS:
        if name in draft:
            try:
                settings = settings_of({name: draft[name]}, scale)
            except BadInput:
                continue
            kept[name] = getattr(settings, name)
    return kept


def drafted_fields(draft: Mapping[str, Any]) -> dict[str, Any]:
    """The request fields of a draft whose values are still allowed."""
    kept = {}
    for name in FIELDS:
        if name in draft:
            try:
                kept[name] = getattr(request_of({name: draft[name]}), name)
            except BadInput:
                continue
    return kept
