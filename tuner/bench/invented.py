"""Models of real sizes with invented weights: what a step costs does not depend on what was learned.

Weights are drawn on the device that computes, part by part, and moved to the host at once, so that neither ever
holds more than the model and one tensor. Nothing is left at zero: gates and shifts that a fresh model zeroes
would hide whatever they scale.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from tuner.engine.vae import VaeRunner
from tuner.models.attention import use_original_attention
from tuner.models.rotary import use_original_rotary
from tuner.settings import Settings

_SEED = 20241122
_SPREAD_OF_VECTORS = 0.05
_SPREAD_OF_FRAMES = 0.5
_SAMPLE = (1, 16, 2, 8, 8)

Module = TypeVar("Module", bound=nn.Module)


def invented_transformer(
    config: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> EasyAnimateTransformer3DModel:
    """A transformer of that config, on the host, with the original's arithmetic as a loaded model has it."""
    with torch.device("meta"):
        model = EasyAnimateTransformer3DModel(**config)
    use_original_attention(model)
    if config.get("text_embed_dim_t5"):
        use_original_rotary(model)
    return _filled(model, device, dtype)


def invented_vae(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> AutoencoderKLMagvit:
    """A VAE of that config, on the host, whose frames fill the range that a clip shows."""
    with torch.device("meta"):
        vae = AutoencoderKLMagvit(**config)
    _filled(vae, device, dtype)
    sample = torch.randn(_SAMPLE, generator=torch.Generator("cpu").manual_seed(_SEED)).to(device, dtype)
    frames = torch.cat([chunk.clone() for chunk in VaeRunner(vae, Settings(), device).decode(sample)], dim=2)
    spread = frames.float().std().item()
    for tensor in vae.decoder.conv_out.parameters():
        tensor.mul_(_SPREAD_OF_FRAMES / spread)
    return vae


@torch.no_grad()
def _filled(module: Module, device: torch.device, dtype: torch.dtype) -> Module:
    generator = torch.Generator(device).manual_seed(_SEED)
    for owner in module.modules():
        for name, empty in owner.named_parameters(recurse=False):
            noise = torch.randn(empty.shape, generator=generator, device=device)
            drawn = _drawn(name, empty, noise)
            setattr(owner, name, nn.Parameter(drawn.to(dtype).to("cpu"), requires_grad=False))
    return module.eval()


def _drawn(name: str, like: Tensor, noise: Tensor) -> Tensor:
    """Weights that keep the size of what goes through them; scales about 1, biases about 0."""
    if like.dim() > 1:
        return noise / math.sqrt(like[0].numel())
    return noise * _SPREAD_OF_VECTORS + (1 if name == "weight" else 0)
