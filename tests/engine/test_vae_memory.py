"""What the real VAE takes at 1024x1024, counted on fake tensors: the live bytes of ``meta``, which stands for the card."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.engine.conftest import LiveBytes
from tuner.engine.vae import VaeRunner
from tuner.settings import GIB, Settings

SMALLEST = {"chunk_size": 1, "cache_capacity": 0.0}
RESIDENT = {"chunk_size": 4, "cache_capacity": 16.0}
LATENTS = 3  # every stage is in its steady state by then


@pytest.fixture(scope="module")
def real_vae():
    with FakeTensorMode() as fakes:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        vae = AutoencoderKLMagvit().eval()
        torch.set_default_dtype(default)
        yield fakes, vae


def weights(vae: AutoencoderKLMagvit, *parts: str) -> int:
    return sum(tensor.nbytes for name, tensor in vae.named_parameters() if name.startswith(parts))


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
@pytest.mark.parametrize(("knobs", "bar"), [(SMALLEST, 2.5), (RESIDENT, 12.8)])
def test_decoding_stays_below_the_bar(real_vae, layout, knobs, bar):
    fakes, vae = real_vae
    with fakes, LiveBytes() as card:
        latents = torch.empty(1, 16, LATENTS, 128, 128, dtype=torch.bfloat16, device="meta")
        for _ in VaeRunner(vae, Settings(layout=layout, **knobs), "meta").decode(latents):
            pass
    assert card.peak - weights(vae, "decoder", "post_quant") <= bar * GIB


@pytest.mark.parametrize(("knobs", "bar"), [(SMALLEST, 2.5), (RESIDENT, 9.5)])
def test_encoding_stays_below_the_bar(real_vae, knobs, bar):
    fakes, vae = real_vae
    with fakes, LiveBytes() as card:
        VaeRunner(vae, Settings(**knobs), "meta").encode(torch.empty(1, 3, 13, 1024, 1024, dtype=torch.bfloat16))
    assert card.peak - weights(vae, "encoder", "quant") <= bar * GIB
