"""A card so small that the demo does not fit it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner import hardware
from tuner.hardware import CARDS


def add_card(monkeypatch: pytest.MonkeyPatch, usable_mib: int) -> str:
    """Put a card of that many usable MiB into the table; its name."""
    card = replace(CARDS["a10"], name="tiny", title="Tiny", memory_bytes=usable_mib * 2**20, context_bytes=0)
    monkeypatch.setattr(hardware, "CARDS", {**CARDS, "tiny": card})
    return "tiny"
