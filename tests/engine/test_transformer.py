from __future__ import annotations

from functools import cache as remembered

import pytest
import torch
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.conftest import tiny_transformer
from tuner.engine.transformer import TransformerRunner
from tuner.models.attention import use_original_attention
from tuner.models.rotary import use_original_rotary
from tuner.settings import Settings

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


@remembered
def model_with(mmdit_layers: int) -> EasyAnimateTransformer3DModel:
    return tiny_transformer(4, mmdit_layers)


@settings(max_examples=60, deadline=None)
@given(
    mmdit_layers=st.integers(0, 4),
    batch_size=st.integers(1, 3),
    capacity=st.sampled_from([0.0, 0.0004, 0.001, 1.0]),
    token_chunk=st.sampled_from([0, 256, 512]),
    prefetch=st.integers(0, 5),
    frames=st.integers(1, 5),
    height=st.sampled_from([2, 6, 16]),
    width=st.sampled_from([4, 10, 24, 26]),
    batch=st.integers(1, 3),
)
def test_no_knob_and_no_shape_changes_the_result(
    mmdit_layers, batch_size, capacity, token_chunk, prefetch, frames, height, width, batch
):
    model = model_with(mmdit_layers)
    knobs = Settings(batch_size=batch_size, cache_capacity=capacity, token_chunk=token_chunk, prefetch=prefetch)
    given_ = inputs(batch, frames, height, width)
    runner = TransformerRunner(model, knobs, "cpu")
    for _ in range(STEPS):
        found = runner(**given_)
    runner.close()
    assert relative_error(found, stock(model, given_)) < 1e-5


def test_a_model_with_one_text_encoder_and_no_given_pictures_equals_stock():
    torch.manual_seed(1)
    model = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        patch_size=2,
        num_layers=3,
        mmdit_layers=1,
        time_embed_dim=32,
        add_norm_text_encoder=True,
        text_embed_dim=32,
        after_norm=True,
    ).eval()
    given_ = {name: inputs()[name] for name in ("hidden_states", "timestep", "encoder_hidden_states")}
    found = TransformerRunner(model, Settings(token_chunk=256), "cpu")(**given_)
    assert relative_error(found, stock(model, given_)) < 1e-5


@pytest.mark.parametrize("attention", ["native", "_native_flash", "_native_math"])
def test_every_backend_that_runs_here_computes_the_same_attention(transformer, attention):
    found = TransformerRunner(transformer, Settings(attention=attention), "cpu")(**inputs())
    assert relative_error(found, stock(transformer, inputs())) < 1e-5


def test_the_rotary_table_is_made_once_for_a_shape_whatever_the_capacity(transformer):
    runner = TransformerRunner(transformer, Settings(cache_capacity=0), "cpu")
    for _ in range(STEPS):
        runner(**inputs())
    runner(**inputs(frames=2))
    conditions = runner._meter.measured()["cache"]["conditions"]
    assert (conditions["misses"], conditions["hits"]) == (2, STEPS - 1)
    runner.close()


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


def test_the_model_gets_its_own_weights_back(transformer):
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    runner = TransformerRunner(transformer, Settings(cache_capacity=0.0005), "cpu")
    runner(**inputs())
    runner.close()
    after = transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("token_chunk", [0, 256])
def test_in_16_bits_every_bit_is_stocks(batch: int, batch_size: int, token_chunk: int) -> None:
    model = tiny_transformer().bfloat16()
    given = {name: value.bfloat16() for name, value in inputs(batch, frames=4).items()}
    runner = TransformerRunner(model, Settings(batch_size=batch_size, token_chunk=token_chunk), "cpu")
    found = runner(**given)
    runner.close()
    assert torch.equal(found, stock(model, given))
