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
        vae_pictures: Cropped pictures in one of its batches; fewer where they are whole, or clips.
        vae_frames: Frames of its clips.
        vae_rate: Its highest learning rate.
        frames: Of the pictures, the short and the whole clips that the transformer learns from.
        clips: How many of each.
        steps: Steps of the transformer's training.
        reading_steps: Steps of the text encoders' training.
        prompts: Prompts in one of its batches.
        tokens: Tokens per batch.
        rate: Highest learning rate of the transformer and the text encoders.
        parts: Batches in a step of either; on a CPU each has a core of its own.
        measured: Clips to measure the latents' spread and colours on.
        vae_share: Part of a limited time for the autoencoder.
    """

    vae_steps: int
    vae_pictures: int
    vae_frames: int
    vae_rate: float
    frames: tuple[int, int, int]
    clips: tuple[int, int, int]
    steps: int
    reading_steps: int
    prompts: int
    tokens: int
    rate: float
    parts: int = 1
    measured: int = 32
    vae_share: float = 0.3


CPU = Recipe(
    vae_steps=7400,
    vae_pictures=8,
    vae_frames=9,
    vae_rate=3e-3,
    frames=(1, 17, 49),
    clips=(12_000, 2000, 1200),
    steps=9000,
    reading_steps=2500,
    prompts=96,
    tokens=4096,
    rate=4e-3,
    parts=2,
)
CUDA = Recipe(
    vae_steps=12_000,
    vae_pictures=128,
    vae_frames=17,
    vae_rate=2e-3,
    frames=(1, 17, 49),
    clips=(200_000, 40_000, 40_000),
    steps=16_000,
    reading_steps=4000,
    prompts=512,
    tokens=98_304,
    rate=4e-3,
)
TINY = Recipe(
    vae_steps=4,
    vae_pictures=2,
    vae_frames=5,
    vae_rate=2e-3,
    frames=(1, 5, 9),
    clips=(8, 8, 8),
    steps=8,
    reading_steps=4,
    prompts=4,
    tokens=320,
    rate=1e-3,
    parts=2,
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
    # Weights cast for one thread are not kept for another: which of them comes first would decide how sums round.
    return torch.autocast(device.type, torch.bfloat16, enabled=sixteen, cache_enabled=False)
