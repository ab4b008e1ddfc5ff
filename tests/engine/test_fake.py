"""The same code on fake tensors: ``meta`` stands for the card and ``cpu`` for the host."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.engine.conftest import tiny_transformer
from tuner.engine.transformer import TransformerRunner
from tuner.engine.vae import VaeRunner
from tuner.settings import Settings


@pytest.mark.parametrize("capacity", [0.0, 0.0005, 1.0])
def test_the_transformer_never_mixes_host_and_device(capacity):
    with FakeTensorMode():
        model = tiny_transformer()
        card = torch.device("meta")
        runner = TransformerRunner(model, Settings(cache_capacity=capacity, batch_size=1), card)
        for _ in range(2):
            out = runner(
                torch.empty(2, 16, 3, 8, 8, device=card),
                torch.empty(2, device=card),
                torch.empty(2, 7, 32, device=card),
                torch.empty(2, 9, 48, device=card),
                torch.empty(2, 17, 3, 8, 8, device=card),
            )
        runner.close()
    assert (out.shape, out.device) == ((2, 16, 3, 8, 8), card)


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
@pytest.mark.parametrize("capacity", [0.0, 0.0001, 1.0])
def test_the_vae_never_mixes_host_and_device(layout, capacity):
    with FakeTensorMode():
        vae = AutoencoderKLMagvit(block_out_channels=[8, 8, 16, 16], layers_per_block=1, norm_num_groups=4).eval()
        runner = VaeRunner(vae, Settings(layout=layout, cache_capacity=capacity, chunk_size=2), "meta")
        latents = runner.encode(torch.empty(1, 3, 9, 16, 16))
        frames = sum(chunk.shape[2] for chunk in runner.decode(latents))
    assert (latents.shape, latents.device.type, frames) == ((1, 16, 3, 2, 2), "meta", 9)
