"""The original's attention arithmetic in diffusers' transformer."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_easyanimate import (
    EasyAnimateAttnProcessor2_0,
    EasyAnimateTransformer3DModel,
)


class OriginalAttnProcessor(EasyAnimateAttnProcessor2_0):
    """diffusers' attention with the text projected in single-stream blocks too.

    EasyAnimate projects text and video together where a block has one stream; diffusers projects the video
    only, so that a checkpoint with single-stream blocks (every 7B model) drifts from what it was trained as.
    Blocks with a text stream of their own are unchanged.
    """

    def __call__(  # type: ignore[override]  # upstream's hints name one tensor where it takes and gives two
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend over text and video.

        Args:
            attn: The module whose weights are used.
            hidden_states: Video tokens ``[B, N, C]``.
            encoder_hidden_states: Text tokens ``[B, M, C]``.
            attention_mask: Added to the scores if given.
            image_rotary_emb: Cosine and sine ``[N, head_dim]`` for the video tokens.

        Returns:
            Video ``[B, N, C]`` and text ``[B, M, C]``.
        """
        video, text = super().__call__(
            attn,
            hidden_states,
            encoder_hidden_states,
            attention_mask=attention_mask,
            image_rotary_emb=image_rotary_emb,  # type: ignore[arg-type]
        )
        if attn.to_add_out is None and attn.to_out is not None:
            for layer in attn.to_out:
                text = layer(text)
        return video, text


def use_original_attention(transformer: EasyAnimateTransformer3DModel) -> None:
    """Give every block of ``transformer`` an :class:`OriginalAttnProcessor`."""
    _use(transformer, OriginalAttnProcessor)


def use_text_projection(
    transformer: EasyAnimateTransformer3DModel, which: Literal["original", "diffusers"]
) -> None:
    """Have single-stream blocks project text as the original does, or leave it as diffusers does."""
    _use(transformer, OriginalAttnProcessor if which == "original" else EasyAnimateAttnProcessor2_0)


def _use(transformer: EasyAnimateTransformer3DModel, processor: type[EasyAnimateAttnProcessor2_0]) -> None:
    for module in transformer.modules():
        if isinstance(module, Attention):
            module.set_processor(processor())  # type: ignore[arg-type]  # upstream lists its own kinds
