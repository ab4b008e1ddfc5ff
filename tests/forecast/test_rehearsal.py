from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tuner.engine.generate import generate
from tuner.forecast.components import fake_components
from tuner.forecast.rehearsal import rehearse
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.models.registry import find_model
from tuner.request import Request
from tuner.settings import GIB, Settings

KNOBS: dict[str, list[Any]] = {
    "engine": ["tuned", "tuned", "tuned", "stock"],
    "chunk_size": [0, 1, 2, 4, 8],
    "batch_size": [1, 2, 4],
    "cache_capacity": [0.0, 0.002, 0.01, 0.05, 1.0],
    "layout": ["contiguous", "chunked", "interleaved"],
    "token_chunk": [0, 256, 1024],
    "prefetch": [0, 1, 3],
    "text_projection": ["original", "diffusers"],
    "step_cache": ["off", "off", "first_block"],
}
REQUEST: dict[str, list[Any]] = {
    "width": [32, 48],
    "height": [32, 64],
    "frames": [1, 5, 9, 17, 21],
    "guidance": [1.0, 6.0],
    "num_clips": [1, 1, 2],
    "scheduler": ["ddim", "euler", "euler-a", "dpm++", "unipc"],
}


@pytest.fixture(scope="module")
def real() -> Components:
    return load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def fake() -> Components:
    return fake_components(find_model("demo"), torch.float32)


def drawn(number: int) -> tuple[Request, Settings]:
    draw = random.Random(number)
    request: dict[str, Any] = {name: draw.choice(values) for name, values in REQUEST.items()}
    if draw.random() < 0.6:
        request["start_image"] = np.full((32, 32, 3), 90, np.uint8)
    settings = {name: draw.choice(values) for name, values in KNOBS.items()}
    return Request(prompt="a", negative_prompt="b", steps=2, **request), Settings(**settings)


@pytest.mark.parametrize("number", range(40))
def test_every_stages_peak_is_what_the_meter_measures(number, real, fake):
    request, settings = drawn(number)
    real.encodings.clear()
    measured = generate(request, settings, real).measured["stages"]
    forecast = rehearse(request, settings, fake, is_cpu=True).measured["stages"]
    assert [stage["name"] for stage in forecast] == [stage["name"] for stage in measured]
    for ours, theirs in zip(forecast, measured, strict=True):
        assert ours["peak_allocated_bytes"] == pytest.approx(theirs["peak_allocated_bytes"], rel=0.02), ours[
            "name"
        ]


def test_the_rest_of_many_steps_is_like_the_last_rehearsed(fake):
    few, many = (
        rehearse(Request(width=64, height=64, frames=5, steps=steps), Settings(), fake) for steps in (5, 50)
    )
    assert (few.steps, many.steps) == (5, 50)
    assert [stage["peak_allocated_bytes"] for stage in few.measured["stages"]] == [
        stage["peak_allocated_bytes"] for stage in many.measured["stages"]
    ]


@pytest.mark.parametrize("model", ["easyanimate-v5-7b-inp", "easyanimate-v5.1-12b-inp"])
def test_a_real_model_is_rehearsed_without_its_weights(model):
    request = Request(width=384, height=256, frames=9, start_image="not opened.png")
    run = rehearse(
        request, Settings(batch_size=1, cache_capacity=0.0), fake_components(find_model(model), torch.bfloat16)
    )
    assert [stage["name"] for stage in run.measured["stages"]] == [
        "encode text",
        "encode image",
        "denoise",
        "decode",
    ]
    assert 0.5 * GIB < run.measured["peak_allocated_bytes"] < 4 * GIB
