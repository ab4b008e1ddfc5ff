from __future__ import annotations

import pytest
import torch

import tuner
from tuner.engine.encoders import Tokens, streamed_encoder
from tuner.engine.placement import Placement
from tuner.settings import GIB, Settings

IDS = torch.tensor([[2, 5, 7, 9, 3, 0, 0]])
TOKENS = Tokens(IDS, None)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("capacity", [0.0, 0.0003, 1.0])
@pytest.mark.parametrize("prefetch", [0, 1])
def test_streamed_layers_give_the_encoder_s_own_states(demo, part, capacity, prefetch):
    encoder = getattr(demo, part)
    with torch.no_grad():
        expected = encoder(IDS)[0]
    knobs = Settings(cache_capacity=capacity, prefetch=prefetch)
    with streamed_encoder(encoder, knobs, Placement("cpu")) as encode:
        for _ in range(2):
            assert torch.equal(encode(TOKENS), expected)
    with torch.no_grad():
        assert torch.equal(encoder(IDS)[0], expected), "it has its own weights back"


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_the_embedding_table_never_leaves_the_host(demo, part):
    encoder = getattr(demo, part)
    table_bytes = encoder.get_input_embeddings().weight.nbytes
    every_byte = sum(parameter.nbytes for parameter in encoder.parameters())
    placement = Placement("cpu")
    with streamed_encoder(encoder, Settings(), placement) as encode:
        encode(TOKENS)
    copied = placement.meter.measured()["transfers"]["h2d_bytes"]
    assert copied < every_byte - table_bytes + 20_000


def test_without_cache_only_the_layers_in_use_are_on_the_device(demo):
    layer_bytes = sum(parameter.nbytes for parameter in demo.text_encoder.encoder.layer[0].parameters())
    peaks = {}
    for capacity in (0.0, layer_bytes * 8 / GIB):
        demo.encodings.clear()
        request = tuner.Request(prompt="a red ball", width=32, height=32, frames=1, steps=1)
        measured = tuner.generate(request, Settings(cache_capacity=capacity, prefetch=0), demo).measured
        peaks[capacity] = measured["stages"][0]["peak_allocated_bytes"]
    assert peaks[0.0] < max(peaks.values())


def test_an_encoder_has_its_own_weights_back_after_an_error(demo):
    with streamed_encoder(demo.text_encoder, Settings(), Placement("cpu")):
        pass
    own = [parameter.data_ptr() for parameter in demo.text_encoder.parameters()]
    with pytest.raises(InterruptedError), streamed_encoder(demo.text_encoder, Settings(), Placement("cpu")):
        raise InterruptedError
    assert [parameter.data_ptr() for parameter in demo.text_encoder.parameters()] == own
