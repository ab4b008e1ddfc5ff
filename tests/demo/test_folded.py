from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit

from tuner.demo.autoencoding import standardise
from tuner.demo.folded import FoldedVae


def tiny_vae() -> AutoencoderKLMagvit:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoencoderKLMagvit(
            block_out_channels=[8, 8, 16, 16],
            down_block_types=["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
            up_block_types=["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=4,
            scaling_factor=0.7125,
            spatial_group_norm=True,
        ).requires_grad_(True)


def video(frames: int, clips: int = 2) -> torch.Tensor:
    return torch.rand(clips, 3, frames, 16, 24, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_encoding_equals_diffusers(frames):
    vae = tiny_vae()
    with torch.no_grad():
        assert close(FoldedVae(vae).encode(video(frames)), vae.encode(video(frames)).latent_dist.parameters)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_decoding_equals_diffusers(frames):
    vae = tiny_vae()
    latents = torch.randn(2, 16, frames, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = vae.decode(latents).sample
        assert wanted.shape[2] == 4 * (frames - 1) + 1
        assert close(FoldedVae(vae).decode(latents), wanted)


def test_gradients_equal_diffusers():
    ours, stock, clip = tiny_vae(), tiny_vae(), video(5, clips=1)
    folded = FoldedVae(ours)
    folded.decode(folded.encode(clip).chunk(2, dim=1)[0]).square().mean().backward()
    mode = stock.encode(clip).latent_dist.mode()
    stock.decode(mode).sample.square().mean().backward()
    for (name, found), wanted in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert found.grad is not None and wanted.grad is not None, name
        scale = float(wanted.grad.abs().max()) + 1e-7
        assert float((found.grad - wanted.grad).abs().max()) <= 1e-3 * scale, name


def test_standardised_latents_have_mean_0_and_once_scaled_variance_1_and_decode_to_the_same():
    vae, clip = tiny_vae().requires_grad_(False), video(5)
    folded = FoldedVae(vae)
    before = folded.decode(folded.encode(clip).chunk(2, dim=1)[0])
    standardise(vae, 0, torch.device("cpu"), clips=2)
    moments = folded.encode(clip)
    mode, logvar = moments.chunk(2, dim=1)
    assert torch.allclose(folded.decode(mode), before, atol=1e-4)

    from tuner.demo.render import render
    from tuner.demo.scene import random_scene

    worlds = torch.stack([render(random_scene(seed), 17) for seed in range(2)]).transpose(1, 2) * 2 - 1
    mode, logvar = folded.encode(worlds).chunk(2, dim=1)
    second = (mode.square() + logvar.exp()).mean((0, 2, 3, 4)) * vae.config["scaling_factor"] ** 2
    assert torch.allclose(mode.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-3)
    assert torch.allclose(second, torch.ones(16), atol=1e-3)
