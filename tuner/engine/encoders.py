"""Text encoders under the same memory rules as the transformer.

The embedding table, a gigabyte in V5's T5, never leaves the host: rows are looked up there. Layers stay on
the device as far as ``cache_capacity`` goes, and the others stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tuner.engine.placement import Placement
from tuner.engine.weights import BlockWeights, PackedModule
from tuner.settings import Settings

Encode = Callable[[Tensor], Tensor]
"""Token ids ``[1, L]`` on the host into states ``[1, L, D]`` on the device."""


@contextmanager
def streamed_encoder(encoder: Any, settings: Settings, placement: Placement) -> Iterator[Encode]:
    """A BERT or T5 encoder whose layers are on the device only as far as the capacity goes.

    Args:
        encoder: A transformers ``BertModel`` or ``T5EncoderModel``, weights on the host.
        settings: ``cache_capacity`` and ``prefetch``.
        placement: Moves the weights.
    """
    stack = encoder.encoder
    layers = stack.layer if hasattr(stack, "layer") else stack.block
    table = encoder.get_input_embeddings()
    trunk = PackedModule(encoder, placement, without=[layers, table])
    trunk.bind(trunk.views(placement.to_device(trunk.host)))
    counter = placement.meter.caches["weights"]
    blocks = BlockWeights(list(layers), placement, settings.cache_bytes, settings.prefetch, counter)

    def encode(ids: Tensor) -> Tensor:
        with placement.meter.host():
            rows = table(ids)
        return encoder(inputs_embeds=placement.to_device(rows))[0]

    try:
        with torch.no_grad(), blocks.during_forward():
            yield encode
    finally:
        blocks.close()
        trunk.unbind()
