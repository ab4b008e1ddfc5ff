from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel

import tuner
from tuner.models.components import Components


def tiny_transformer(layers: int = 4, mmdit_layers: int = 2) -> EasyAnimateTransformer3DModel:
    torch.manual_seed(layers * 10 + mmdit_layers)
    model = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=33,
        out_channels=16,
        patch_size=2,
        num_layers=layers,
        mmdit_layers=mmdit_layers,
        time_embed_dim=32,
        text_embed_dim=32,
        text_embed_dim_t5=48,
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def transformer() -> EasyAnimateTransformer3DModel:
    return tiny_transformer()


@pytest.fixture(scope="session")
def vae() -> AutoencoderKLMagvit:
    torch.manual_seed(0)
    model = AutoencoderKLMagvit(block_out_channels=[8, 8, 16, 16], layers_per_block=1, norm_num_groups=4)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def demo() -> Components:
    return tuner.load_model("demo", device="cpu")
