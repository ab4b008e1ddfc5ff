"""What the bytes of a forecast are for."""

from __future__ import annotations

import pytest
import torch

from tuner.forecast.components import fake_components
from tuner.forecast.forecast import Forecaster, StageForecast
from tuner.models.registry import find_model
from tuner.request import Request
from tuner.settings import Settings

REQUEST = Request(width=128, height=128, frames=17, steps=4)
MIB = 2**20


def stage(forecaster: Forecaster, name: str, gpu: str = "a10", **knobs: object) -> StageForecast:
    found = forecaster.forecast(REQUEST, Settings(**knobs), gpu=gpu)
    return next(stage for stage in found.stages if stage.name == name)


@pytest.mark.parametrize("gpu", ["a10", "cpu"])
@pytest.mark.parametrize("engine", ["tuned", "stock"])
def test_the_parts_of_every_stage_are_all_of_it(forecaster: Forecaster, gpu: str, engine: str) -> None:
    for held in forecaster.forecast(REQUEST, Settings(engine=engine), gpu=gpu).stages:
        assert sum(held.split.values()) == held.peak_allocated_bytes <= held.peak_reserved_bytes
        assert min(held.split.values()) >= 0


def test_resident_weights_are_the_weights_of_the_model(forecaster: Forecaster) -> None:
    weights = fake_components(find_model("demo"), torch.bfloat16).transformer.parameters()
    held = stage(forecaster, "denoise").split["weights"]
    assert held == pytest.approx(sum(weight.nbytes for weight in weights), rel=0.05)


def test_streaming_keeps_two_blocks_and_changes_nothing_else(forecaster: Forecaster) -> None:
    blocks = fake_components(find_model("demo"), torch.bfloat16).transformer.transformer_blocks
    sizes = [sum(weight.nbytes for weight in block.parameters()) for block in blocks]
    resident, streamed = stage(forecaster, "denoise"), stage(forecaster, "denoise", cache_capacity=0.0)
    kept = resident.split["weights"] - sum(sizes) + 2 * max(sizes)
    assert streamed.split["weights"] == pytest.approx(kept, rel=0.05)
    assert streamed.split["activations"] == pytest.approx(resident.split["activations"], rel=0.05)


def test_features_are_what_the_cache_may_hold(forecaster: Forecaster) -> None:
    few = stage(forecaster, "decode", cache_capacity=2 / 1024).split["features"]
    assert 0 < few <= 2 * MIB < stage(forecaster, "decode").split["features"]
    assert stage(forecaster, "decode", cache_capacity=0.0).split["features"] == 0


def test_only_a_card_with_a_library_of_products_has_a_workspace(forecaster: Forecaster) -> None:
    assert stage(forecaster, "denoise").split["workspace"] > 0
    assert stage(forecaster, "denoise", gpu="cpu").split["workspace"] == 0
