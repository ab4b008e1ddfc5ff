"""EasyAnimate Tuner: make video generation fit and fly on the card you have.

The names below are the public interface. They load on first use, so that ``import tuner`` is quick and
never brings in torch or gradio by itself.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.engine.generate import Result, generate
    from tuner.errors import BadInput, Cancelled, OutOfMemory, TunerError
    from tuner.forecast.forecast import Forecast, forecast
    from tuner.models.load import load_model
    from tuner.presets import load_preset, save_preset
    from tuner.request import Request
    from tuner.settings import Settings

# torch's CPU threads spin while they wait for each other. When anything else wants the cores (a browser
# showing the curves) a run was measured to take 42.7 s instead of 3.7 s. A short spin, tens of microseconds,
# spares most small operations a thread's wake-up: a step of the demo takes a tenth less, and beside two busy
# programs it is the same again. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Blocks of many sizes follow each other. Without it PyTorch's allocator was forecast to hold a third more than is
# in use. Read when memory is first asked for; there is no such thing but on Linux.
if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "Cancelled",
    "Forecast",
    "OutOfMemory",
    "Request",
    "Result",
    "Settings",
    "TunerError",
    "forecast",
    "generate",
    "load_model",
    "load_preset",
    "save_preset",
]

_HOMES = {
    "BadInput": "tuner.errors",
    "Cancelled": "tuner.errors",
    "Forecast": "tuner.forecast.forecast",
    "OutOfMemory": "tuner.errors",
    "Request": "tuner.request",
    "Result": "tuner.engine.generate",
    "Settings": "tuner.settings",
    "TunerError": "tuner.errors",
    "forecast": "tuner.forecast.forecast",
    "generate": "tuner.engine.generate",
    "load_model": "tuner.models.load",
    "load_preset": "tuner.presets",
    "save_preset": "tuner.presets",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tuner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
