"""What can be asked of the forecast's own process, and its answers: plain values that need no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tuner.forecast.learning import Learned
from tuner.request import Request
from tuner.settings import Settings

Kind = Literal["forecast", "relief", "size", "fit"]

Answer = dict[str, Any]
"""JSON, by the kind of question.

``forecast``: as ``tuner forecast --json``. ``relief`` and ``fit``: ``changes``, knobs by name, and the
``forecast`` with them; ``size``: the same with ``width`` and ``height`` as changes. ``changes`` is empty where
nothing helps, and ``forecast`` is None then.
"""


@dataclass(frozen=True)
class Question:
    """What is to be forecast, or changed so that it fits.

    Attributes:
        request: What is to be made.
        settings: How.
        model: Name or folder.
        gpu: Name of a card.
        kind: ``forecast``: what it will cost. ``relief``: the smallest change of knobs that makes it fit.
            ``size``: the largest smaller clip that fits. ``fit``: the fastest lossless settings that fit.
        learned: What finished runs taught.
        looks_ahead: Whether what is likely to be asked next may be worked out when nothing else is asked.
    """

    request: Request
    settings: Settings
    model: str | Path
    gpu: str
    kind: Kind = "forecast"
    looks_ahead: bool = False
    learned: Learned = field(default_factory=Learned, compare=False)
