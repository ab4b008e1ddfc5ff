from __future__ import annotations

import pytest
import torch

import tuner
from tuner.bench.inputs import random_latents, transformer_inputs
from tuner.bench.rounds import look
from tuner.bench.ways import OFFLOADED, decode_ways, group_offloaded, transformer_ways
from tuner.meter.meter import Meter
from tuner.settings import Settings

CPU, SIZE = torch.device("cpu"), (48, 32, 5)
TUNED = {"resident": Settings(), "streamed": Settings(cache_capacity=0.0, batch_size=1)}


@pytest.fixture(scope="module")
def demo():
    return tuner.load_model("demo", device="cpu")


@pytest.fixture(scope="module", params=["denoise", "decode"])
def ways(request, demo):
    if request.param == "denoise":
        inputs = transformer_inputs(demo.transformer, demo.vae, SIZE, CPU, torch.float32)
        return transformer_ways(demo.transformer, inputs, CPU, TUNED)
    return decode_ways(demo.vae, random_latents(demo.vae, SIZE, CPU, torch.float32), CPU, TUNED)


def test_all_ways_give_the_same(ways):
    outputs = []
    for way in ways:
        with torch.no_grad(), way.open(Meter(CPU)) as call:
            outputs.append(call())
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-4, atol=1e-5)


def test_without_a_card_group_offloading_has_no_place(ways):
    assert [way.name for way in ways] == ["stock", "resident", "streamed"]


def test_what_is_resident_is_copied_once_and_what_streams_every_time(demo):
    inputs = transformer_inputs(demo.transformer, demo.vae, SIZE, CPU, torch.float32)
    stock, resident, streamed = (
        look(way, CPU, "denoise", lambda seconds: not seconds)
        for way in transformer_ways(demo.transformer, inputs, CPU, TUNED)
    )
    assert resident.first["h2d_bytes"] > 0
    assert resident.again["h2d_bytes"] == stock.again["h2d_bytes"] == 0
    blocks = sum(tensor.nbytes for tensor in demo.transformer.transformer_blocks.parameters())
    assert streamed.again["h2d_bytes"] >= blocks * 0.8
    assert streamed.peak_allocated_bytes < resident.peak_allocated_bytes < stock.peak_allocated_bytes


def test_a_look_says_that_memory_ran_out():
    class Refuses:
        name, counts_itself = "refuses", False

        def open(self, meter):
            raise torch.OutOfMemoryError("no more")

    assert look(Refuses(), CPU, "denoise", lambda seconds: False).status == "out of memory"  # type: ignore[arg-type]


@pytest.mark.parametrize(("part", "level"), [("transformer", "block_level"), ("decoder", "leaf_level")])
def test_group_offloading_computes_the_same_and_is_taken_off_again(demo, part, level):
    inputs = transformer_inputs(demo.transformer, demo.vae, SIZE, CPU, torch.float32)
    latents = random_latents(demo.vae, SIZE, CPU, torch.float32)
    module = demo.transformer if part == "transformer" else demo.vae.decoder

    def call() -> torch.Tensor:
        return inputs.apply(module) if part == "transformer" else demo.vae.decode(latents).sample

    with torch.no_grad():
        before = call()
        with group_offloaded(module, CPU, level):
            assert any(hooks(one) for one in module.modules())
            torch.testing.assert_close(call(), before, rtol=0, atol=0)
        assert not any(hooks(one) for one in module.modules())
        torch.testing.assert_close(call(), before, rtol=0, atol=0)
    assert OFFLOADED == "group offloading"


def hooks(module: torch.nn.Module) -> list[str]:
    registry = getattr(module, "_diffusers_hook", None)
    return list(registry.hooks) if registry else []
