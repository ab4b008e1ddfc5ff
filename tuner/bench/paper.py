"""What a call of stock's takes, on paper: no weights are read and nothing is computed.

A copy of the model without values runs on the ``meta`` device, which stands for the card. That counts two things
that no CPU can show: the operations of every call, and the copies from the host that diffusers' forward makes
by itself (rotary tables, for every block anew).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tuner.bench.copies import Copies
from tuner.bench.inputs import latent_shape, transformer_inputs
from tuner.meter.measured import TransfersMeasured

_CARD = torch.device("meta")

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class OnPaper:
    """One call.

    Attributes:
        flops: Floating-point operations of its matrix products, convolutions and attention.
        copies: Between host and card, all weights resident.
    """

    flops: int
    copies: TransfersMeasured


def step_on_paper(
    model: EasyAnimateTransformer3DModel, vae: AutoencoderKLMagvit, size: tuple[int, int, int]
) -> OnPaper:
    """A transformer call with both guidance branches of a clip of that width, height and number of frames."""
    empty = _without_values(model)
    empty.rope_embedding = model.rope_embedding
    for block, original in zip(empty.transformer_blocks, model.transformer_blocks, strict=True):
        block.attn1.set_processor(original.attn1.processor)  # type: ignore[union-attr, operator, arg-type]
    inputs = transformer_inputs(model, vae, size, _CARD, torch.float32)
    return _counted(lambda: inputs.apply(empty))


def decode_on_paper(vae: AutoencoderKLMagvit, size: tuple[int, int, int]) -> OnPaper:
    """Decoding a clip of that width, height and number of frames."""
    empty: Any = _without_values(vae)
    latents = torch.empty(1, *latent_shape(vae, size), device=_CARD)
    return _counted(lambda: empty.decode(latents))


def _without_values(module: Module) -> Module:
    kind = type(module)
    known = inspect.signature(kind.__init__).parameters
    config: Any = module.config
    with _CARD:
        return kind(**{key: value for key, value in config.items() if key in known}).eval()


def _counted(call: Callable[[], object]) -> OnPaper:
    copies = Copies()
    with torch.no_grad(), FlopCounterMode(display=False) as operations, copies:
        call()
    return OnPaper(operations.get_total_flops(), copies.counted)
