"""What a runner put on the device is gone when it is done, without waiting for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit

from tuner.engine import VaeRunner
from tuner.meter.memory import CpuMemory
from tuner.settings import Settings


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
def test_the_vae_leaves_nothing_on_the_device(vae: AutoencoderKLMagvit, layout: str) -> None:
    video = torch.zeros(1, 3, 5, 16, 16)
    with CpuMemory() as memory:
        runner = VaeRunner(vae, Settings(layout=layout, chunk_size=4), "cpu")
        latents = runner.encode(video)
        assert memory.allocated == latents.nbytes
        for chunk in runner.decode(latents):
            del chunk
        assert memory.allocated == latents.nbytes
