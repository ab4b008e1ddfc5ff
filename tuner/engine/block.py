"""One transformer block over chunks of tokens.

The arithmetic is that of diffusers' ``EasyAnimateTransformerBlock`` in another order: its own modules are
called, on fewer tokens at a time. Only a block's keys and values exist for all tokens; normed tokens, queries,
attention output and the feed-forward's inner states exist for one chunk, and residuals are added in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn
from torch.nn import functional

from tuner.models.attention import OriginalAttnProcessor


class ChunkedBlock:
    """Runs any block of the model.

    Args:
        token_chunk: Video tokens at a time; 0 means all.
        backend: diffusers' attention backend.
    """

    def __init__(self, token_chunk: int, backend: str) -> None:
        self._token_chunk = token_chunk
        self._backend: Any = backend

    def __call__(
        self, block: Any, video: Tensor, text: Tensor, time: Tensor, rotary: Tensor, of_several: bool = False
    ) -> None:
        """Change video and text tokens as the block does, in place.

        Args:
            block: An ``EasyAnimateTransformerBlock``, weights on the device.
            video: ``[b, n, C]``.
            text: ``[b, L, C]``.
            time: Time embedding ``[b, D]``.
            rotary: From :func:`rotary_turns`, ``[n, head_dim / 2]``.
            of_several: Whether these are samples of a batch of two or more.
        """
        self._attend(block, video, text, time, rotary, of_several)
        self._feed_forward(block, video, text, time)

    def chunks(self, tokens: int) -> Iterator[slice]:
        """The chunks of ``tokens`` video tokens."""
        size = self._token_chunk or tokens
        return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))

    def _attend(
        self, block: Any, video: Tensor, text: Tensor, time: Tensor, rotary: Tensor, bias_apart: bool
    ) -> None:
        """Joint attention of text and video; ``bias_apart``: of what comes out, see :func:`_linear`."""
        attn, norm = block.attn1, block.norm1
        shift, scale, gate, text_shift, text_scale, text_gate = _modulation(norm, time)
        own = attn.add_q_proj is not None
        to_q, to_k, to_v, norm_q, norm_k = (
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)
            if own
            else (attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        )
        heads, length = attn.heads, text.shape[1]
        keys = video.new_empty(len(video), length + video.shape[1], heads, attn.inner_dim // heads)
        values = torch.empty_like(keys)

        normed = _modulated(norm, text, text_shift, text_scale)
        keys[:, :length] = _normed_heads(norm_k, to_k(normed), heads)
        values[:, :length] = _heads(to_v(normed), heads)
        text_queries: list[Tensor] = [_normed_heads(norm_q, to_q(normed), heads)]
        # From the last chunk to the first, then from the first on: the first is normed once for both.
        for chunk in reversed(list(self.chunks(video.shape[1]))):
            del normed
            rows = slice(length + chunk.start, length + chunk.stop)
            normed = _modulated(norm, video[:, chunk], shift, scale)
            values[:, rows] = _heads(attn.to_v(normed), heads)
            keys[:, rows] = _normed_heads(attn.norm_k, attn.to_k(normed), heads)
            _rotate(keys[:, rows], rotary[chunk])
        first = [normed]
        del normed
        for chunk in self.chunks(video.shape[1]):
            normed = first.pop() if first else _modulated(norm, video[:, chunk], shift, scale)
            projected = attn.to_q(normed)
            del normed
            queries = _normed_heads(attn.norm_q, projected, heads)
            del projected
            # Text goes with the first chunk, as in stock, so that 16 bits are rounded there as in stock.
            before = length if text_queries else 0
            if text_queries:
                queries = torch.cat([text_queries.pop(), queries], dim=1)
            _rotate(queries[:, before:], rotary[chunk])
            attended = self._scaled_dot_product(queries, keys, values)
            del queries
            projected = _linear(attn.to_out[0], attended[:, before:], bias_apart)
            video[:, chunk].add_(attn.to_out[1](projected).mul_(gate))
            del projected
            if before:
                text.add_(_text_out(attn, attended[:, :before], bias_apart).mul_(text_gate))
            del attended

    def _scaled_dot_product(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of ``[b, n, H, D]`` queries over all keys, heads joined: ``[b, n, H*D]``."""
        return dispatch_attention_fn(queries, keys, values, backend=self._backend).flatten(2, 3).to(queries.dtype)

    def _feed_forward(self, block: Any, video: Tensor, text: Tensor, time: Tensor) -> None:
        """The feed-forward of text and video."""
        norm = block.norm2
        shift, scale, gate, text_shift, text_scale, text_gate = _modulation(norm, time)
        after = block.norm3 or nn.Identity()
        for chunk in self.chunks(video.shape[1]):
            video[:, chunk].add_(after(block.ff(_modulated(norm, video[:, chunk], shift, scale))).mul_(gate))
        normed = _modulated(norm, text, text_shift, text_scale)
        text.add_(after((block.txt_ff or block.ff)(normed)).mul_(text_gate))


def _text_out(attn: Any, attended: Tensor, bias_apart: bool) -> Tensor:
    """What text's share of the attention comes to."""
    if attn.add_q_proj is not None:
        return _linear(attn.to_add_out, attended, bias_apart)
    if isinstance(attn.processor, OriginalAttnProcessor):
        return attn.to_out[1](_linear(attn.to_out[0], attended, bias_apart))
    return attended


def _linear(linear: nn.Linear, states: Tensor, bias_apart: bool) -> Tensor:
    """A linear layer; ``bias_apart`` rounds before the bias is added, and after it.

    So does PyTorch where its input is not contiguous, as a part of the attention of several samples is. Samples
    that are run one by one are rounded where stock rounds them together.
    """
    if not bias_apart:
        return linear(states)
    return functional.linear(states, linear.weight).add_(linear.bias)


def rotary_turns(tables: tuple[Tensor, Tensor]) -> Tensor:
    """The rotary tables of diffusers as turns: cosine + i sine ``[n, head_dim / 2]``, complex64.

    Args:
        tables: Cosine and sine, float32 ``[n, head_dim]``: every value twice, once for each of a pair.
    """
    cos, sin = tables
    return torch.complex(cos[:, ::2].contiguous(), sin[:, ::2].contiguous())


def _rotate(states: Tensor, turns: Tensor) -> None:
    """Turn pairs of ``states`` ``[b, n, H, D]``, in float32 as diffusers does, in place.

    In 16 bits half of the tokens at a time, so that a float32 copy takes no more than the states themselves.
    """
    if states.dtype == torch.float32:
        _pairs(states).mul_(turns[:, None])
        return
    half = -(-states.shape[1] // 2)
    for some, by in zip(states.split(half, dim=1), turns[:, None].split(half), strict=True):
        some.copy_(torch.view_as_real(_pairs(some.float()).mul_(by)).flatten(-2))


def _pairs(states: Tensor) -> Tensor:
    """A view of neighbouring channels as complex numbers."""
    return torch.view_as_complex(states.unflatten(-1, (-1, 2)))


def _modulation(norm: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale, gate for video, then for text, each ``[b, 1, C]``: they depend on the timestep only."""
    return norm.linear(norm.silu(time)).unsqueeze(1).chunk(6, dim=-1)


def _modulated(norm: Any, tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens normed, scaled and shifted."""
    return norm.norm(tokens).mul_(1 + scale).add_(shift)


def _heads(projected: Tensor, heads: int) -> Tensor:
    """``[b, n, H*D]`` as ``[b, n, H, D]``."""
    return projected.unflatten(2, (heads, -1))


def _normed_heads(norm: nn.Module | None, projected: Tensor, heads: int) -> Tensor:
    """A projection split into heads and normalised per head: ``[b, n, H, D]``."""
    split = _heads(projected, heads)
    return norm(split) if norm is not None else split
