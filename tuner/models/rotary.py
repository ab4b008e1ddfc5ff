"""The original's rotary position grid in diffusers' transformer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.transformer_easyanimate import (
    EasyAnimateRotaryPosEmbed,
    EasyAnimateTransformer3DModel,
)

_BASE_LATENT_WIDTH, _BASE_LATENT_HEIGHT = 90, 60

Region = tuple[tuple[float, float], tuple[float, float]]


class OriginalRotaryPosEmbed(EasyAnimateRotaryPosEmbed):
    """diffusers' rotary table with tokens spaced as the model was trained.

    A clip's token grid is laid, centred, into the base grid of 720x480. EasyAnimate spaces the tokens evenly
    from the region's start to its end, the end left out. diffusers (0.42) scales the end alone, which is the
    same only while the region starts at 0: at every aspect ratio but 3:2 its tokens lie too close together.
    """

    def forward(  # type: ignore[override]  # upstream's hint names one tensor where it gives two
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine for latents ``[B, C, t, h, w]``: float32 ``[tokens, head_dim]`` each, on the CPU."""
        frames, height, width = hidden_states.shape[2:]
        grid = (height // self.patch_size, width // self.patch_size)
        base = (_BASE_LATENT_WIDTH // self.patch_size, _BASE_LATENT_HEIGHT // self.patch_size)
        region = self.get_resize_crop_region_for_grid(grid, *base)
        table: Any = get_3d_rotary_pos_embed(
            self.rope_dim, _compensated(region, grid), grid_size=grid, temporal_size=frames, use_real=True
        )
        return table


def _compensated(region: Region, grid: tuple[int, int]) -> Region:
    """The region whose end, scaled by ``(n - 1) / n`` as diffusers does, is where the last token belongs."""
    start, stop = region
    ends = [
        end if count == 1 else (begin + (end - begin) * (count - 1) / count) * count / (count - 1)
        for begin, end, count in zip(start, stop, grid, strict=True)
    ]
    return start, (ends[0], ends[1])


def use_original_rotary(transformer: EasyAnimateTransformer3DModel) -> None:
    """Give ``transformer`` an :class:`OriginalRotaryPosEmbed`."""
    old = transformer.rope_embedding
    transformer.rope_embedding = OriginalRotaryPosEmbed(old.patch_size, old.rope_dim)
