from __future__ import annotations

import pytest
import torch

from tests.engine.conftest import tiny_transformer
from tuner.engine.block import ChunkedBlock, rotary_turns

VIDEO, TEXT = 3 * 5 * 7, 11


@pytest.mark.parametrize("mmdit_layers", [0, 1])
@pytest.mark.parametrize("token_chunk", [0, 1, 8, 104, 1000])
@torch.no_grad()
def test_a_block_over_any_chunks_of_tokens_equals_its_own_forward(mmdit_layers, token_chunk):
    model = tiny_transformer(1, mmdit_layers)
    block, make = model.transformer_blocks[0], torch.Generator().manual_seed(token_chunk)
    video, text, time = (
        torch.randn(2, *shape, generator=make)
        for shape in [(VIDEO, 64), (TEXT, 64), (model.config["time_embed_dim"],)]
    )
    rotary = model.rope_embedding(torch.empty(2, 16, 3, 10, 14))
    expected = block(video, text, time, rotary)
    ChunkedBlock(token_chunk, "native")(block, video, text, time, rotary_turns(rotary))
    torch.testing.assert_close((video, text), expected, rtol=1e-5, atol=1e-5)
