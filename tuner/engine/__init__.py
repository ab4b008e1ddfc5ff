"""One generation, done within the knobs."""

from __future__ import annotations

from tuner.engine.generate import Result, generate
from tuner.engine.transformer import TransformerRunner
from tuner.engine.vae import VaeRunner

__all__ = ["Result", "TransformerRunner", "VaeRunner", "generate"]
