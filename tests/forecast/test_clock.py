from __future__ import annotations

from statistics import median

import pytest
import torch

from tuner.forecast.clock import Clock, Efficiency
from tuner.forecast.shapes import cost_of
from tuner.forecast.trace import Began, Copied, Entry, Ran, Recorded, Repeated, Segment, Stepped, Waited
from tuner.hardware import CARDS
from tuner.request import Request
from tuner.settings import Settings

PUBLISHED = {(672, 384, 25): 4.8, (672, 384, 49): 9.6, (1008, 576, 25): 12.7, (1008, 576, 49): 29.8}
"""Seconds per step of EasyAnimateV5-12B on an A10: README of aigc-apps/EasyAnimate at 45c298a."""

A10 = CARDS["a10"]
FULL = Efficiency(products=1, attention=1, memory=1, transfer=1)
SECOND = Ran("mm", "matmul", torch.bfloat16, int(A10.rates["bfloat16"]), 0)
COPY = Copied("h2d", int(A10.transfer), "copy")


def seconds(*entries: Entry) -> float:
    clock = Clock(A10, FULL, steps=0)
    clock.run(entries)
    return clock.seconds


def test_the_published_seconds_of_a_step_are_met(forecaster):
    errors = []
    for (width, height, frames), published in PUBLISHED.items():
        request = Request(width=width, height=height, frames=frames, steps=25)
        forecast = forecaster.forecast(
            request, Settings(engine="stock"), model="easyanimate-v5-12b-inp", gpu="a10"
        )
        errors.append(abs(forecast.step_seconds[-1] / published - 1))
    assert median(errors) <= 0.08
    assert max(errors) <= 0.15


@pytest.mark.parametrize(
    ("clips", "channels", "frames", "rows", "small"),
    [
        (1, 16, 10, 128, True),
        (1, 16, 18, 128, False),
        (1, 64, 18, 16, True),
        (1, 48, 18, 32, False),
        (2, 8, 3, 16, False),
    ],
)
def test_a_cpu_is_slow_at_3d_convolutions_of_few_rows(clips, channels, frames, rows, small):
    video = torch.empty(clips, channels, frames, rows, rows, device="meta")
    weight = torch.empty(16, channels, 3, 3, 3, device="meta")
    operation = torch.ops.aten.convolution.default
    args = video, weight, None, (1, 1, 1), (0, 1, 1), (1, 1, 1), False, (0, 0, 0), 1
    ran = cost_of(operation, args, {}, operation(*args), [video])
    assert ran.work == ("small convolution3d" if small else "convolution")


def test_an_operation_takes_its_arithmetic_or_its_bytes():
    by_bytes = Ran("add", "other", torch.bfloat16, 0, int(A10.bandwidth))
    assert seconds(SECOND) == pytest.approx(1, rel=1e-3)
    assert seconds(by_bytes) == pytest.approx(1, rel=1e-3)
    assert seconds(Ran("mm", "matmul", torch.bfloat16, SECOND.flops, by_bytes.bytes)) == pytest.approx(1, rel=1e-3)


def test_copies_beside_arithmetic_cost_nothing_until_they_are_waited_for():
    copied = [COPY, Recorded(1, "copy")]
    assert seconds(*copied, SECOND) == pytest.approx(1, rel=1e-3)
    assert seconds(*copied, SECOND, Waited(1, "compute")) == pytest.approx(1, rel=1e-3)
    assert seconds(*copied, *copied, SECOND, Waited(1, "compute")) == pytest.approx(2, rel=1e-3)
    assert seconds(
        SECOND, Recorded(0, "compute"), Waited(0, "copy"), *copied, Waited(1, "compute")
    ) == pytest.approx(2, rel=1e-3)


def test_a_repeated_segment_takes_its_time_each_time():
    segment = Segment([SECOND, SECOND])
    assert seconds(Repeated(segment), Repeated(segment)) == pytest.approx(4, rel=1e-3)


def test_steps_that_were_not_rehearsed_are_like_the_last():
    clock = Clock(A10, FULL, steps=5)
    (stage,) = clock.run([Began("denoise"), SECOND, SECOND, Stepped(1, 2), SECOND, Stepped(2, 2)])
    assert clock.step_seconds == pytest.approx([2, 1, 1, 1, 1], rel=1e-3)
    assert stage.seconds == clock.seconds == pytest.approx(6, rel=1e-3)
