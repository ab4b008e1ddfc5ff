"""How much is trained: sizes and lengths for a CPU of a few cores, for a CUDA card, and for a test."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Recipe:
    """Numbers of a training run.

    Attributes:
        vae_steps: Steps of the autoencoder's training.
        vae_clips: Its clips per batch while they are crops; an eighth when they are whole.
        vae_frames: Frames of those.
        vae_rate: Its highest learning rate.
        clips: Clips whose latents the transformer learns from.
        frames: Frames of such a clip.
        steps: Steps of the transformer's training.
        tokens: Tokens per batch.
        rate: Highest learning rate of the transformer and the text encoders.
        measured: Clips to measure the latents' spread and colours on.
        vae_share: Part of a limited time for the autoencoder.
        clips_share: Part for the clips' latents.
    """

    vae_steps: int
    vae_clips: int
    vae_frames: int
    vae_rate: float
    clips: int
    frames: int
    steps: int
    tokens: int
    rate: float
    measured: int = 32
    vae_share: float = 0.3
    clips_share: float = 0.15


CPU = Recipe(
    vae_steps=6000,
    vae_clips=8,
    vae_frames=17,
    vae_rate=1.5e-3,
    clips=4000,
    frames=49,
    steps=30_000,
    tokens=5120,
    rate=1e-3,
)
CUDA = Recipe(
    vae_steps=12_000,
    vae_clips=64,
    vae_frames=17,
    vae_rate=2e-3,
    clips=40_000,
    frames=49,
    steps=16_000,
    tokens=98_304,
    rate=1.5e-3,
)
TINY = Recipe(
    vae_steps=4,
    vae_clips=2,
    vae_frames=5,
    vae_rate=2e-3,
    clips=8,
    frames=5,
    steps=8,
    tokens=320,
    rate=1e-3,
    measured=1,
)
"""For tests: every phase, in seconds."""


def recipe_for(device: torch.device) -> Recipe:
    """What suits a device."""
    return CUDA if device.type == "cuda" else CPU


def autocast_for(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the device multiplies matrices in it, which is several times faster; else float32."""
    sixteen = device.type == "cuda"
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        sixteen = bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=sixteen)
