from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_easyanimate import (
    EasyAnimateAttnProcessor2_0,
    EasyAnimateTransformerBlock,
)
from torch.nn.functional import layer_norm

from tuner.models.attention import OriginalAttnProcessor

HEADS, HEAD, VIDEO, TEXT = 2, 16, 6, 4
WIDTH = HEADS * HEAD


def block(mmdit: bool) -> EasyAnimateTransformerBlock:
    torch.manual_seed(0)
    return EasyAnimateTransformerBlock(WIDTH, HEADS, HEAD, time_embed_dim=8, is_mmdit_block=mmdit).eval()


def tokens() -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    angles = torch.rand(VIDEO, HEAD // 2).repeat_interleave(2, dim=1)
    return torch.randn(2, VIDEO, WIDTH), torch.randn(2, TEXT, WIDTH), (angles.cos(), angles.sin())


def attended(mmdit: bool, processor: EasyAnimateAttnProcessor2_0) -> tuple[torch.Tensor, torch.Tensor]:
    attention = block(mmdit).attn1
    attention.set_processor(processor)
    video, text, rotary = tokens()
    with torch.no_grad():
        return attention(hidden_states=video, encoder_hidden_states=text, image_rotary_emb=rotary)


def by_hand() -> tuple[torch.Tensor, torch.Tensor]:
    """One stream as the original has it: text and video attend and are projected together."""
    attention = block(mmdit=False).attn1
    video, text, (cos, sin) = tokens()
    with torch.no_grad():
        stream = torch.cat([text, video], dim=1)

        def heads(linear: torch.nn.Linear, norm: torch.nn.LayerNorm | None) -> torch.Tensor:
            split = linear(stream).reshape(2, TEXT + VIDEO, HEADS, HEAD)
            if norm is None:
                return split
            split = layer_norm(split, (HEAD,), norm.weight, norm.bias, 1e-6)
            even, odd = split[:, TEXT:, :, 0::2], split[:, TEXT:, :, 1::2]
            c, s = cos[None, :, None, 0::2], sin[None, :, None, 0::2]
            turned = torch.stack([even * c - odd * s, odd * c + even * s], dim=-1).flatten(-2)
            return torch.cat([split[:, :TEXT], turned], dim=1)

        query, key, value = (
            heads(attention.to_q, attention.norm_q),
            heads(attention.to_k, attention.norm_k),
            heads(attention.to_v, None),
        )
        weights = (torch.einsum("bqhc,bkhc->bhqk", query, key) / HEAD**0.5).softmax(dim=-1)
        out = attention.to_out[0](torch.einsum("bhqk,bkhc->bqhc", weights, value).flatten(2))
        return out[:, TEXT:], out[:, :TEXT]


def test_a_single_stream_block_projects_its_text_as_the_original_does():
    video, text = attended(False, OriginalAttnProcessor())
    expected_video, expected_text = by_hand()
    torch.testing.assert_close(video, expected_video, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(text, expected_text, rtol=1e-5, atol=1e-6)


def test_diffusers_own_attention_leaves_that_text_unprojected():
    video, text = attended(False, EasyAnimateAttnProcessor2_0())
    ours_video, ours_text = attended(False, OriginalAttnProcessor())
    assert torch.equal(video, ours_video)
    assert (text - ours_text).abs().max() > 0.01


def test_a_block_with_a_text_stream_of_its_own_is_unchanged():
    for stock, ours in zip(
        attended(True, EasyAnimateAttnProcessor2_0()), attended(True, OriginalAttnProcessor()), strict=True
    ):
        assert torch.equal(stock, ours)


@pytest.mark.parametrize("mmdit", [True, False])
def test_the_rotary_embedding_reaches_the_processor(mmdit):
    attention = block(mmdit).attn1
    attention.set_processor(OriginalAttnProcessor())
    video, text, rotary = tokens()
    with torch.no_grad():
        turned = attention(hidden_states=video, encoder_hidden_states=text, image_rotary_emb=rotary)[0]
        plain = attention(hidden_states=video, encoder_hidden_states=text)[0]
    assert (turned - plain).abs().max() > 1e-3
