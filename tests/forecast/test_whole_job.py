"""What the project promises of a whole image-to-video job, counted on a card that is not there."""

from __future__ import annotations

import pytest

from tuner.forecast.forecast import Forecast
from tuner.request import Request
from tuner.settings import GIB, Settings

JOB = Request(width=1024, height=1024, frames=49, steps=25, start_image="not opened.png")
MODEL = "easyanimate-v5-7b-inp"
SMALLEST = Settings(chunk_size=1, batch_size=1, cache_capacity=0.0)
LIMITS_GIB = {"encode text": 1.2, "encode image": 3.0, "denoise": 3.0, "decode": 3.0}


@pytest.fixture(scope="module")
def smallest(forecaster) -> Forecast:
    return forecaster.forecast(JOB, SMALLEST, model=MODEL, gpu="a10")


def test_1024x1024_and_49_frames_take_no_more_than_4_gib(smallest, forecaster):
    stock = forecaster.forecast(JOB, Settings(engine="stock"), model=MODEL, gpu="a10")
    for ours, theirs in zip(smallest.stages, stock.stages, strict=True):
        peaks = [stage.peak_allocated_bytes / GIB for stage in (ours, theirs)]
        print(f"{ours.name:14} {peaks[0]:6.2f} GiB, stock {peaks[1]:6.2f} GiB")
    assert smallest.peak_allocated_bytes <= 4.0 * GIB
    assert stock.peak_allocated_bytes >= 35 * GIB


def test_every_stage_keeps_within_its_share(smallest):
    peaks = {stage.name: stage.peak_allocated_bytes / GIB for stage in smallest.stages}
    assert {name for name, peak in peaks.items() if peak > LIMITS_GIB[name]} == set()


def test_streaming_all_weights_costs_no_more_than_a_twentieth_of_a_step(smallest, forecaster):
    resident = Settings(chunk_size=1, batch_size=1, cache_capacity=16.0)
    kept = forecaster.forecast(JOB, resident, model=MODEL, gpu="a10")
    assert smallest.step_seconds[-1] <= 1.05 * kept.step_seconds[-1]
