from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.conftest import tiny_transformer
from tuner.engine.transformer import TransformerRunner
from tuner.models.attention import use_original_attention
from tuner.models.rotary import use_original_rotary
from tuner.settings import GIB, Settings

STEPS = 2


def inputs(batch: int = 2, frames: int = 3, height: int = 16, width: int = 24) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(batch + frames + height + width)
    return {
        "hidden_states": torch.randn(batch, 16, frames, height, width, generator=make),
        "timestep": torch.full((batch,), 333.0),
        "encoder_hidden_states": torch.randn(batch, 7, 32, generator=make),
        "encoder_hidden_states_t5": torch.randn(batch, 9, 48, generator=make),
        "inpaint_latents": torch.randn(batch, 17, frames, height, width, generator=make),
    }


@torch.no_grad()
def stock(model, given: dict[str, Tensor]) -> Tensor:
    return model(**given, return_dict=False)[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("mmdit_layers", [0, 2, 4])
@pytest.mark.parametrize("original", [False, True], ids=["diffusers", "original"])
def test_every_kind_of_block_equals_the_module_s_own_forward(mmdit_layers, original):
    model = tiny_transformer(4, mmdit_layers)
    if original:
        use_original_attention(model)
        use_original_rotary(model)
    expected = stock(model, inputs())
    assert relative_error(TransformerRunner(model, Settings(), "cpu")(**inputs()), expected) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.integers(1, 3),
    capacity=st.sampled_from([0.0, 0.0004, 0.001, 1.0]),
    token_chunk=st.sampled_from([0, 256]),
    prefetch=st.integers(0, 5),
    frames=st.integers(1, 4),
    height=st.sampled_from([2, 6, 16]),
    width=st.sampled_from([4, 10, 24]),
    batch=st.integers(1, 3),
)
def test_no_knob_and_no_shape_changes_the_result(
    transformer, batch_size, capacity, token_chunk, prefetch, frames, height, width, batch
):
    knobs = Settings(batch_size=batch_size, cache_capacity=capacity, token_chunk=token_chunk, prefetch=prefetch)
    given_ = inputs(batch, frames, height, width)
    runner = TransformerRunner(transformer, knobs, "cpu")
    for _ in range(STEPS):
        found = runner(**given_)
    runner.close()
    assert relative_error(found, stock(transformer, given_)) < 1e-5


def test_samples_of_a_batch_may_have_timesteps_of_their_own(transformer):
    given_ = inputs() | {"timestep": torch.tensor([10.0, 900.0])}
    found = TransformerRunner(transformer, Settings(batch_size=1), "cpu")(**given_)
    assert relative_error(found, stock(transformer, given_)) < 1e-5


def test_bfloat16_stays_as_close_to_float32_as_stock_does():
    model = tiny_transformer()
    expected = stock(model, inputs())
    half = {name: tensor.bfloat16() for name, tensor in inputs().items()}
    model.bfloat16()
    own = relative_error(TransformerRunner(model, Settings(token_chunk=256), "cpu")(**half).float(), expected)
    assert own < 1.2 * relative_error(stock(model, half).float(), expected)


def test_resident_weights_are_copied_once_and_never_again(transformer):
    runner = TransformerRunner(transformer, Settings(cache_capacity=1.0), "cpu")
    runner(**inputs())
    before = runner._meter.measured()["transfers"]
    runner(**inputs())
    assert runner._meter.measured()["transfers"] == before
    weights = runner._meter.measured()["cache"]["weights"]
    assert (weights["hits"], weights["misses"]) == (4, 4)
    runner.close()


@pytest.mark.parametrize("resident", [0, 1, 2, 3])
def test_each_step_streams_exactly_the_blocks_that_do_not_fit(transformer, resident):
    sizes = [packed_bytes(block) for block in transformer.transformer_blocks]
    rotary_bytes = 3 * 8 * 12 * 32 * 4
    capacity = (sum(sizes[:resident]) + rotary_bytes) / GIB
    runner = TransformerRunner(transformer, Settings(cache_capacity=capacity, prefetch=0), "cpu")
    runner(**inputs())
    before = runner._meter.measured()["transfers"]["h2d_bytes"]
    runner(**inputs())
    # With one buffer the last block of a step is still there only if it is the only one that streams.
    streamed = sum(sizes[resident:]) if resident < 3 else 0
    assert runner._meter.measured()["transfers"]["h2d_bytes"] - before == streamed
    runner.close()


def packed_bytes(block) -> int:
    return sum(-(-tensor.nbytes // 256) * 256 for tensor in block.parameters())


def test_the_model_gets_its_own_weights_back(transformer):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    runner = TransformerRunner(transformer, Settings(cache_capacity=0.0005), "cpu")
    runner(**inputs())
    runner.close()
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
