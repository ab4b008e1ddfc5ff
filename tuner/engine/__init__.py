"""One generation, done within the knobs: :func:`tuner.generate`, and the two runners it is made of.

The runners load on first use, and alone: they need neither the writer of clips nor the reader of presets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.engine.transformer import TransformerRunner
    from tuner.engine.vae import VaeRunner

__all__ = ["TransformerRunner", "VaeRunner"]

_HOMES = {"TransformerRunner": "tuner.engine.transformer", "VaeRunner": "tuner.engine.vae"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tuner.engine' has no attribute {name!r}")
