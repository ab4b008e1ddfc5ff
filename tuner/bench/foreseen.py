"""What the forecast says of a benchmark's rows: the same way is run on a card that is not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import nn

from tuner.bench.inputs import random_latents, transformer_inputs
from tuner.bench.ways import Way, decode_ways, transformer_ways
from tuner.forecast.allocator import Allocator, CachingAllocator, ExactAllocator
from tuner.forecast.card import FakeCard
from tuner.forecast.clock import Clock, Efficiency
from tuner.forecast.host import weight
from tuner.forecast.ledger import Ledger
from tuner.forecast.meter import ForecastMeter
from tuner.forecast.shapes import Shapes
from tuner.hardware import Card
from tuner.meter.events import Stage
from tuner.models.attention import use_original_attention
from tuner.models.rotary import use_original_rotary
from tuner.models.weights import Part, fill_with
from tuner.settings import Settings

_META = torch.device("meta")
_EXPANDABLE = "expandable_segments:True"
_COMPARED = ("peak_allocated_bytes", "peak_reserved_bytes", "seconds")


class Foreseen(TypedDict):
    """What one row was forecast to cost, and how far off that was: (forecast - measured) / measured."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    seconds: float
    error: dict[str, float | None]


class Foresight:
    """Forecasts rows of models without bytes.

    Args:
        transformer: Its config.
        vae: Its config.
        dtype: Of the weights.
        card: What the rows are measured on.
        limit_bytes: What PyTorch may hold there; None for all.
    """

    def __init__(
        self,
        transformer: dict[str, Any],
        vae: dict[str, Any],
        dtype: torch.dtype,
        card: Card,
        limit_bytes: int | None = None,
    ) -> None:
        with _META:
            self._transformer = EasyAnimateTransformer3DModel(**transformer)
            self._vae = AutoencoderKLMagvit(**vae)
        use_original_attention(self._transformer)
        if transformer.get("text_embed_dim_t5"):
            use_original_rotary(self._transformer)
        modules: list[nn.Module] = [self._transformer, self._vae]
        for module in modules:
            fill_with(Part(Path(), module), dtype, weight)
        self._dtype, self._card, self._shapes = dtype, card, Shapes()
        self._usable_bytes = limit_bytes or card.usable_bytes

    def of(self, part: Stage, size: tuple[int, int, int], way: str, settings: Settings | None) -> Foreseen:
        """A first call of one way and, for its seconds, another.

        Args:
            part: ``denoise`` or ``decode``.
            size: Width, height, frames.
            way: Its name.
            settings: Its knobs; None for stock.
        """
        fake = FakeCard(self._card.is_cpu, self._shapes)
        tuned = {way: settings} if settings else {}
        # On a CPU only what a meter sees made counts, and inputs are made before.
        with nullcontext() if self._card.is_cpu else fake.watching():
            ways = self._ways(part, size, tuned)
        opened = next(each for each in ways if each.name == way).open
        with torch.no_grad(), ForecastMeter(fake) as meter, opened(meter) as call:
            for _ in range(2):
                with meter.stage(part):
                    call()
        memory = Ledger(self._allocator(), self._card.workspace_bytes).replay(fake.entries)
        *_, again = Clock(self._card, Efficiency(), steps=0).run(fake.entries)
        return {
            "peak_allocated_bytes": max(stage.allocated for stage in memory),
            "peak_reserved_bytes": max(stage.reserved for stage in memory),
            "seconds": again.seconds,
            "error": {},
        }

    def _ways(self, part: Stage, size: tuple[int, int, int], tuned: dict[str, Settings]) -> list[Way]:
        if part == "decode":
            latents = random_latents(self._vae, size, _META, self._dtype)
            return decode_ways(self._vae, latents, _META, tuned)
        inputs = transformer_inputs(self._transformer, self._vae, size, _META, self._dtype)
        return transformer_ways(self._transformer, inputs, _META, tuned)

    def _allocator(self) -> Allocator:
        if self._card.is_cpu:
            return ExactAllocator()
        return CachingAllocator(self._usable_bytes, _EXPANDABLE in os.environ.get("PYTORCH_ALLOC_CONF", ""))


def with_errors(foreseen: Foreseen, measured: Mapping[str, Any]) -> Foreseen:
    """The same, beside what was measured of the row."""
    figures: Mapping[str, Any] = foreseen
    error = {name: figures[name] / measured[name] - 1 if measured[name] else None for name in _COMPARED}
    return {**foreseen, "error": error}
