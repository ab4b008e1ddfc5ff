"""Random inputs of the right shapes: what a model computes, moves and holds does not depend on their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor

_BRANCHES = 2
_TOKENS, _TOKENS_T5 = 77, 256
_TIMESTEP = 500.0
_SEED = 1


@dataclass(frozen=True)
class Inputs:
    """What the transformer takes for both guidance branches of one clip, on the device.

    Attributes:
        latents: ``[2, 16, t, h, w]``.
        timestep: ``[2]``.
        text: ``[2, 77, D]``, or ``[2, 256, D]`` where the model has one text encoder.
        text_t5: ``[2, 256, D5]``; None where the model has one text encoder.
        inpaint: ``[2, 17, t, h, w]``.
    """

    latents: Tensor
    timestep: Tensor
    text: Tensor
    text_t5: Tensor | None
    inpaint: Tensor

    def apply(self, model: Any, latents: Tensor | None = None) -> Tensor:
        """Call ``model``, a runner or diffusers' own transformer: its prediction ``[2, 16, t, h, w]``."""
        prediction = model(
            self.latents if latents is None else latents,
            self.timestep,
            encoder_hidden_states=self.text,
            encoder_hidden_states_t5=self.text_t5,
            inpaint_latents=self.inpaint,
            **({"return_dict": False} if isinstance(model, EasyAnimateTransformer3DModel) else {}),
        )
        return prediction[0] if isinstance(prediction, tuple) else prediction

    @property
    def video_tokens(self) -> int:
        """Video tokens of one sample."""
        _, _, frames, height, width = self.latents.shape
        return frames * (height // 2) * (width // 2)


def transformer_inputs(
    model: EasyAnimateTransformer3DModel,
    vae: AutoencoderKLMagvit,
    size: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Inputs:
    """Inputs for a clip.

    Args:
        model: Its config says how wide the text is.
        vae: Its config says how large latents are.
        size: Width and height in pixels, and frames.
        device: Where they lie; ``meta`` for inputs without values.
        dtype: Of all of them.
    """
    config, latents = model.config, latent_shape(vae, size)
    channels, *space = latents
    width_t5 = config.get("text_embed_dim_t5")
    generator = torch.Generator("cpu").manual_seed(_SEED)

    def random(*shape: int) -> Tensor:
        if device.type == "meta":
            return torch.empty(_BRANCHES, *shape, device=device, dtype=dtype)
        return torch.randn(_BRANCHES, *shape, generator=generator).to(device, dtype)

    return Inputs(
        latents=random(channels, *space),
        timestep=torch.full((_BRANCHES,), _TIMESTEP, dtype=dtype, device=device),
        text=random(_TOKENS if width_t5 else _TOKENS_T5, config["text_embed_dim"]),
        text_t5=random(_TOKENS_T5, width_t5) if width_t5 else None,
        inpaint=random(channels + 1, *space),
    )


def random_latents(
    vae: AutoencoderKLMagvit, size: tuple[int, int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Latents ``[1, 16, t, h, w]`` of a clip of that width, height and number of frames, for decoding."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    return torch.randn(1, *latent_shape(vae, size), generator=generator).to(device, dtype)


def latent_shape(vae: AutoencoderKLMagvit, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """``(channels, t, h, w)`` of a clip's latents."""
    width, height, frames = size
    return (
        vae.config["latent_channels"],
        (frames - 1) // vae.temporal_compression_ratio + 1,
        height // vae.spatial_compression_ratio,
        width // vae.spatial_compression_ratio,
    )
