"""What the published 7B model needs at 1024x1024 and 49 frames in bfloat16, counted on a card of fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from tests.engine.fake_card import CARD, fake_card
from tuner.engine.encoders import Tokens, streamed_encoder
from tuner.engine.placement import Placement
from tuner.engine.transformer import TransformerRunner
from tuner.engine.vae import VaeRunner
from tuner.models.configs import TRANSFORMERS
from tuner.models.qwen import build_qwen
from tuner.settings import GIB, Settings

CONFIG = TRANSFORMERS["easyanimate-v5-7b-inp"]
LATENTS = (13, 128, 128)
TOKENS = 13 * 64 * 64
ROTARY_BYTES = TOKENS * CONFIG["attention_head_dim"] // 2 * 8
BLOCK_BYTES = 245_471_744 * 2  # with text's own weights
TRUNK_BYTES = 2 * (6_813_097_536 - 18 * (245_471_744 + 132_197_632))


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


@pytest.fixture
def bfloat16(fake: FakeTensorMode) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def transformer(bfloat16: None) -> EasyAnimateTransformer3DModel:
    """Three blocks, both kinds among them: activations and buffers do not depend on how many follow."""
    return EasyAnimateTransformer3DModel(**{**CONFIG, "num_layers": 3, "mmdit_layers": 2}).eval()


def inputs(latents: tuple[int, int, int] = LATENTS) -> dict[str, Tensor]:
    return {
        "hidden_states": torch.empty(2, 16, *latents, device=CARD),
        "timestep": torch.empty(2, device=CARD),
        "encoder_hidden_states": torch.empty(2, 77, 1024, device=CARD),
        "encoder_hidden_states_t5": torch.empty(2, 256, 2048, device=CARD),
        "inpaint_latents": torch.empty(2, 17, *latents, device=CARD),
    }


@pytest.mark.parametrize(("batch_size", "bar"), [(1, 1.35), (2, 2.15)])
def test_transformer_activations_above_weights_and_inputs(transformer, batch_size, bar):
    given = inputs()
    with fake_card(given.values()) as card:
        runner = TransformerRunner(transformer, Settings(batch_size=batch_size, cache_capacity=0), CARD)
        runner(**given)
        weights = card.live - ROTARY_BYTES
        runner.close()
    assert (card.peak - weights) / GIB <= bar
    assert weights / GIB <= 1.0, "two buffers of the largest block, and what is no block"
    assert weights >= 2 * BLOCK_BYTES + TRUNK_BYTES
    assert card.live == 0


def test_resident_weights_are_copied_once_and_a_step_then_copies_nothing(transformer):
    given = inputs((1, 8, 8))
    with fake_card(given.values()) as card:
        runner = TransformerRunner(transformer, Settings(cache_capacity=20), CARD)
        runner(**given)
        weights = sum(tensor.nbytes for tensor in transformer.parameters())
        assert card.copied_bytes == pytest.approx(weights, rel=1e-5)
        card.copied_bytes = 0
        runner(**given)
        runner.close()
    assert card.copied_bytes == 0


def test_a_step_with_streamed_weights_copies_them_to_the_card_and_nothing_else(transformer):
    given = inputs((1, 8, 8))
    with fake_card(given.values()) as card:
        runner = TransformerRunner(transformer, Settings(cache_capacity=0), CARD)
        runner(**given)
        card.copied_bytes = 0
        runner(**given)
        runner.close()
    blocks = sum(tensor.nbytes for tensor in transformer.transformer_blocks.parameters())
    assert card.copied_bytes == pytest.approx(blocks, rel=1e-5)  # each tensor begins at a multiple of 256


SMALLEST = {"chunk_size": 1, "cache_capacity": 0.0}
ALL_FEATURES = {"chunk_size": 4, "cache_capacity": 16.0}


@pytest.fixture
def vae(bfloat16: None) -> AutoencoderKLMagvit:
    return AutoencoderKLMagvit().eval()


def part_bytes(vae: AutoencoderKLMagvit, *parts: str) -> int:
    return sum(tensor.nbytes for name, tensor in vae.named_parameters() if name.startswith(parts))


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
@pytest.mark.parametrize(("knobs", "bar"), [(SMALLEST, 2.5), (ALL_FEATURES, 12.8)], ids=["smallest", "resident"])
def test_decoding_above_weights_and_latents(vae, layout, knobs, bar):
    latents = torch.empty(1, 16, 3, 128, 128, device=CARD)  # a third latent frame finds every stage as a later one
    with fake_card([latents]) as card:
        frames = sum(
            chunk.shape[2] for chunk in VaeRunner(vae, Settings(layout=layout, **knobs), CARD).decode(latents)
        )
    assert frames == 9
    assert (card.peak - part_bytes(vae, "decoder", "post_quant")) / GIB <= bar
    assert card.live == 0


@pytest.mark.parametrize(("knobs", "bar"), [(SMALLEST, 2.5), (ALL_FEATURES, 9.5)], ids=["smallest", "resident"])
def test_encoding_above_weights(vae, knobs, bar):
    with fake_card() as card:
        VaeRunner(vae, Settings(**knobs), CARD).encode(torch.empty(1, 3, 13, 1024, 1024))
    assert (card.peak - part_bytes(vae, "encoder", "quant")) / GIB <= bar
    assert card.live == 0


def bert() -> BertModel:
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
    return BertModel(BertConfig(vocab_size=47_020, num_hidden_layers=24, **sizes))


def t5() -> T5EncoderModel:
    sizes = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
    gated: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "attn_implementation": "eager"}
    return T5EncoderModel(T5Config(vocab_size=250_112, **sizes, **gated))


def qwen():
    sizes = {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "vocab_size": 152_064}
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4}
    rotary = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    return build_qwen({**sizes, **heads, **rotary})


@pytest.mark.parametrize(
    ("encoder", "length", "masked", "parameters", "bar"),
    [(bert, 77, False, 3.5e8, 0.1), (t5, 256, False, 1.67e9, 0.25), (qwen, 256, True, 6.8e9, 1.0)],
    ids=["BERT", "T5", "Qwen2-VL"],
)
def test_text_encoders(bfloat16, encoder, length, masked, parameters, bar):
    model = encoder().eval()
    assert sum(tensor.numel() for tensor in model.parameters()) == pytest.approx(parameters, rel=0.02)
    tokens = torch.zeros(1, length, dtype=torch.long)
    with fake_card() as card, streamed_encoder(model, Settings(cache_capacity=0), Placement(CARD)) as encode:
        states = encode(Tokens(tokens, torch.ones_like(tokens) if masked else None))
        assert states.device == CARD
    assert card.peak / GIB <= bar
