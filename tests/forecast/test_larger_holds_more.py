"""A knob moved to a setting that holds more never lowers what a stage is forecast to take."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tuner.forecast.forecast import Forecaster
from tuner.request import Request
from tuner.settings import Settings

FROM_SMALL_TO_LARGE: dict[str, list[Any]] = {
    "chunk_size": [1, 2, 4, 8, 16, 0],
    "batch_size": [1, 2, 3, 4],
    "cache_capacity": [0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 1.0],
}
LOWER_BY = {"chunk_size": 0.03, "batch_size": 0.0, "cache_capacity": 0.001}
"""What a larger setting may save: a clip that fits one chunk has no frames to remember for the next one, and a
table that is kept is made in place."""

REQUESTS = st.builds(
    Request,
    width=st.sampled_from([48, 64]),
    height=st.sampled_from([48, 80]),
    frames=st.sampled_from([1, 5, 9, 17]),
    steps=st.just(2),
    guidance=st.sampled_from([1.0, 6.0]),
    num_clips=st.sampled_from([1, 2]),
    start_image=st.sampled_from([None, "not opened.png"]),
)
KNOBS = st.fixed_dictionaries(
    {
        **{name: st.sampled_from(values) for name, values in FROM_SMALL_TO_LARGE.items()},
        "layout": st.sampled_from(["contiguous", "chunked", "interleaved"]),
        "token_chunk": st.sampled_from([0, 256]),
        "prefetch": st.sampled_from([0, 1, 3, 8]),
    }
)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    knob=st.sampled_from(list(FROM_SMALL_TO_LARGE)),
    request_=REQUESTS,
    knobs=KNOBS,
    gpu=st.sampled_from(["a10", "cpu"]),
)
# The last blocks took turns in more bytes than they have together.
@example(
    knob="cache_capacity",
    request_=Request(width=48, height=80, frames=5, steps=2, num_clips=2),
    knobs={"chunk_size": 2, "batch_size": 4, "layout": "contiguous", "token_chunk": 0, "prefetch": 3},
    gpu="cpu",
)
def test_memory_never_falls(
    forecaster: Forecaster, knob: str, request_: Request, knobs: dict[str, Any], gpu: str
) -> None:
    found = [
        (value, forecaster.forecast(request_, Settings(**{**knobs, knob: value}), gpu=gpu))
        for value in FROM_SMALL_TO_LARGE[knob]
    ]
    for (smaller, before), (larger, after) in pairwise(found):
        for held, holds in zip(before.stages, after.stages, strict=True):
            least = held.peak_allocated_bytes * (1 - LOWER_BY[knob])
            assert holds.peak_allocated_bytes >= least, f"{held.name}: {knob} {smaller} -> {larger}"
