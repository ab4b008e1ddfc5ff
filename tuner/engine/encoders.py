"""Text encoders under the same memory rules as the transformer.

The embedding table, a gigabyte in V5's T5, never leaves the host: rows are looked up there. Layers stay on
the device as far as ``cache_capacity`` goes, and the others stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tuner.engine.packed import PackedModule
from tuner.engine.placement import Placement
from tuner.engine.weights import BlockWeights
from tuner.settings import Settings


class Tokens(NamedTuple):
    """A prompt's tokens on the host: ids ``[1, L]``, and a mask ``[1, L]`` where the encoder takes one."""

    ids: Tensor
    mask: Tensor | None


Encode = Callable[[Tokens], Tensor]
"""Tokens into states ``[1, L, D]`` on the device."""


@contextmanager
def streamed_encoder(encoder: Any, settings: Settings, placement: Placement) -> Iterator[Encode]:
    """A text encoder whose layers are on the device only as far as the capacity goes.

    Args:
        encoder: A transformers ``BertModel``, ``T5EncoderModel`` or ``Qwen2VLTextModel``, weights on the host.
        settings: ``cache_capacity`` and ``prefetch``.
        placement: Moves the weights.
    """
    table, *layers = encoder_blocks(encoder)
    trunk = PackedModule(encoder, placement, without=[table, *layers])
    packed = [PackedModule(layer, placement) for layer in layers]

    def encode(tokens: Tokens) -> Tensor:
        with placement.meter.host():
            rows = table(tokens.ids)
        return _states(encoder, placement.to_device(rows), tokens.mask, placement)

    with ExitStack() as stack:
        stack.callback(trunk.unbind)
        trunk.bind(trunk.views(placement.to_device(trunk.host)))
        counter = placement.meter.caches["weights"]
        blocks = BlockWeights(packed, placement, settings.cache_bytes, settings.prefetch, counter)
        stack.callback(blocks.close)
        stack.enter_context(blocks.during_forward())
        with torch.no_grad():
            yield encode


@contextmanager
def resident_encoder(encoder: Any, placement: Placement) -> Iterator[Encode]:
    """A text encoder that already is on the device, table and all."""

    def encode(tokens: Tokens) -> Tensor:
        rows = encoder.get_input_embeddings()(placement.to_device(tokens.ids))
        return _states(encoder, rows, tokens.mask, placement)

    with torch.no_grad():
        yield encode


def _states(encoder: Any, rows: Tensor, mask: Tensor | None, placement: Placement) -> Tensor:
    if mask is None:
        return encoder(inputs_embeds=rows)[0]
    return encoder(inputs_embeds=rows, attention_mask=placement.to_device(mask), use_cache=False)[0]


def encoder_blocks(encoder: Any) -> list[nn.Module]:
    """The embedding table, then the layers in their order: what :func:`streamed_encoder` keeps apart."""
    if hasattr(encoder, "layers"):
        layers = encoder.layers
    else:
        layers = encoder.encoder.layer if hasattr(encoder.encoder, "layer") else encoder.encoder.block
    return [encoder.get_input_embeddings(), *layers]
