"""Pictures with the statistics of photographs, from numbers alone.

Dead leaves: opaque pieces of many sizes fall on one another, their number falling with the cube of their size,
each with a grain whose strength falls with frequency (Lee, Mumford and Huang, 2001). They teach the autoencoder
what lies outside of the demo's world without any picture from elsewhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAVES = 90
_SMALLEST, _LARGEST = 0.03, 0.6


def falling_leaves(
    clips: int, frames: int, side: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Still pictures and slow pans over them.

    Args:
        clips: How many.
        frames: Of each.
        side: Height and width in pixels.
        generator: Decides everything; on the CPU.
        device: Where to compute.

    Returns:
        float32 ``[clips, frames, 3, side, side]`` in 0..1.
    """
    wide = side + frames
    picture = _picture(clips, wide, generator).to(device)
    steps = torch.randint(0, 3, (clips, 2), generator=generator).sub_(1).tolist()
    shown = []
    for clip, (down, right) in enumerate(steps):
        starts = [(frames - 1 if step < 0 else 0) for step in (down, right)]
        corners = [(starts[0] + down * frame, starts[1] + right * frame) for frame in range(frames)]
        shown.append(
            torch.stack([picture[clip, :, top : top + side, left : left + side] for top, left in corners])
        )
    return torch.stack(shown)


def _picture(count: int, side: int, generator: torch.Generator) -> Tensor:
    """``[count, 3, side, side]``."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    middles = (torch.arange(side) + 0.5) / side
    picture = uniform(count, 3, 1, 1).expand(-1, -1, side, side).clone()
    grain = _grain(count, side, generator)
    # Sizes whose number falls with the cube: the inverse square of a uniform number, between the two ends.
    sizes = (_LARGEST**-2 + uniform(count, _LEAVES) * (_SMALLEST**-2 - _LARGEST**-2)).rsqrt()
    sizes = sizes.sort(dim=1, descending=True).values
    places, stretch, turn = uniform(count, _LEAVES, 2), uniform(count, _LEAVES) + 0.5, uniform(count, _LEAVES)
    colours, rough = uniform(count, _LEAVES, 3), 0.35 * uniform(count, _LEAVES).square()
    slopes = uniform(count, _LEAVES, 2) - 0.5
    for leaf in range(_LEAVES):
        dx = middles[None, None, :] - places[:, leaf, 0, None, None]
        dy = middles[None, :, None] - places[:, leaf, 1, None, None]
        angle = (math.pi * turn[:, leaf])[:, None, None]
        u, v = angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx
        size = sizes[:, leaf, None, None]
        away = torch.hypot(u, v * stretch[:, leaf, None, None]) - size
        cover = (0.5 - away * side).clamp_(0, 1)[:, None]
        light = (slopes[:, leaf, 0, None, None] * dx + slopes[:, leaf, 1, None, None] * dy) / size * 0.3
        surface = colours[:, leaf, :, None, None] + light[:, None] + rough[:, leaf, None, None, None] * grain
        picture = torch.lerp(picture, surface.clamp(0, 1), cover)
    return picture


def _grain(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Noise whose amplitude falls as one over the frequency, standard deviation 1: ``[count, 3, side, side]``."""
    waves = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator))
    rates = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None, :])
    noise = torch.fft.irfft2(waves / rates.clamp_min(1 / side), s=(side, side))
    return noise / noise.std((2, 3), keepdim=True).clamp_min(1e-6)
