from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

import tuner
from tuner.bench.inputs import random_latents
from tuner.bench.paper import decode_on_paper, step_on_paper
from tuner.models.configs import TRANSFORMERS, VAE


@pytest.fixture(scope="module")
def demo():
    return tuner.load_model("demo", device="cpu")


def test_a_step_of_the_7b_model_copies_rotary_tables_for_every_block_anew():
    with torch.device("meta"):
        model = EasyAnimateTransformer3DModel(**TRANSFORMERS["easyanimate-v5-7b-inp"])
        vae = AutoencoderKLMagvit(**VAE)
    step = step_on_paper(model, vae, (1024, 1024, 49))
    assert step.copies["h2d_count"] == 144
    assert step.copies["h2d_bytes"] / 2**30 == pytest.approx(1.83, abs=0.005)
    assert step.flops / 1e15 == pytest.approx(3.41, abs=0.01)


def test_a_decode_takes_on_paper_what_the_modules_really_compute(demo):
    size = 32, 32, 5
    latents = random_latents(demo.vae, size, torch.device("cpu"), torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        demo.vae.decode(latents)
    paper = decode_on_paper(demo.vae, size)
    assert paper.flops == counted.get_total_flops() > 0
    assert sum(paper.copies.values()) == 0


def test_the_model_itself_is_not_touched(demo):
    before = [(name, tensor.data_ptr()) for name, tensor in demo.transformer.named_parameters()]
    step_on_paper(demo.transformer, demo.vae, (32, 32, 5))
    assert [(name, tensor.data_ptr()) for name, tensor in demo.transformer.named_parameters()] == before
