"""Steps that would do nearly what an earlier one did are cut short; how near is for the threshold to say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tuner
from tests.engine.conftest import tiny_transformer
from tests.engine.test_transformer import inputs
from tuner.engine.placement import Placement
from tuner.engine.step_cache import StepCache
from tuner.engine.transformer import TransformerRunner
from tuner.request import Request
from tuner.settings import Settings

ASKED = Request(prompt="a red ball moving right", width=64, height=64, frames=9, steps=10, guidance=2, seed=3)
TOKENS = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))


def cached(threshold: float, **knobs: object) -> Settings:
    return Settings(step_cache="first_block", step_cache_threshold=threshold, **knobs)  # type: ignore[arg-type]


def steps_of(settings: Settings, given: list[dict[str, Tensor]]) -> tuple[list[Tensor], TransformerRunner]:
    runner = TransformerRunner(tiny_transformer(), settings, "cpu")
    return [runner(**each) for each in given], runner


def left_out(runner: TransformerRunner) -> int:
    return runner._meter.caches["features"].hits


def drifting(by: float) -> list[dict[str, Tensor]]:
    """The inputs of three steps, each a little further from the first."""
    away = torch.randn(2, 16, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    first = inputs()
    return [first | {"hidden_states": first["hidden_states"] + number * by * away} for number in range(3)]


@pytest.mark.parametrize("capacity", [0.0, 1.0], ids=["on the host", "on the device"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_step_like_the_last_gives_the_same_from_one_block(capacity, batch_size):
    knobs = {"cache_capacity": capacity, "batch_size": batch_size}
    (first, second), runner = steps_of(cached(0.01, **knobs), [inputs(), inputs()])
    assert left_out(runner) == 1
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("capacity", [0.0, 1.0], ids=["on the host", "on the device"])
def test_at_zero_every_step_is_whole_and_the_same_bits(capacity):
    given = drifting(0.01)
    found, runner = steps_of(cached(0.0, cache_capacity=capacity), given)
    expected, _ = steps_of(Settings(cache_capacity=capacity), given)
    assert left_out(runner) == 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_changes_more_than_the_threshold_is_computed():
    near, runner = steps_of(cached(0.2), drifting(0.05))
    assert left_out(runner) == 2
    _, runner = steps_of(cached(0.2), drifting(1.0))
    assert left_out(runner) == 0
    whole, _ = steps_of(Settings(), drifting(0.05))
    assert not torch.equal(near[2], whole[2]), "it is lossy"


def test_change_adds_up_since_the_last_whole_step():
    """Three steps, each near the one before it, do not wander off: the third is far from the first."""
    _, runner = steps_of(cached(0.3), [drifting(0.0)[0], drifting(0.15)[1], drifting(0.6)[2]])
    assert left_out(runner) == 1


def test_one_sample_that_changes_is_enough():
    given = [inputs(), inputs()]
    given[1]["hidden_states"] = given[1]["hidden_states"].clone()
    given[1]["hidden_states"][1] *= -3
    for batch_size in (1, 2):
        _, runner = steps_of(cached(0.2, batch_size=batch_size), given)
        assert left_out(runner) == 0


def test_another_shape_begins_anew():
    given = [inputs(), inputs(frames=2), inputs(frames=2)]
    found, runner = steps_of(cached(1.0), given)
    assert left_out(runner) == 1
    torch.testing.assert_close(found[2], found[1], rtol=1e-5, atol=1e-6)


def test_it_takes_its_part_of_the_capacity_and_gives_it_back():
    needed = 2 * 3 * 8 * 12 * 64 * 4
    for capacity, held in ((needed - 1, 0), (needed + 4096 * 96, needed)):
        _, runner = steps_of(cached(0.1, cache_capacity=capacity / 2**30), [inputs()])
        assert runner._meter.caches["features"].held_bytes == held
        runner.close()
        assert runner._meter.caches["features"].held_bytes == 0


def test_what_is_left_out_is_what_the_other_blocks_added():
    placement = Placement("cpu")
    steps = StepCache(0.5, True, placement, placement.meter.caches["features"])
    video = TOKENS.clone()
    steps.begin([video])
    video += 1
    assert not steps.leave_out([video])
    video *= 2
    steps.remember([video])
    again = TOKENS.clone()
    steps.begin([again])
    again += 1.1
    assert steps.leave_out([again])
    torch.testing.assert_close(again, TOKENS + 1.1 + (TOKENS + 1))


def test_the_higher_the_threshold_the_fewer_whole_steps_and_the_further_from_the_full_clip(demo):
    whole = tuner.generate(ASKED, Settings(), demo, return_frames=True)
    found = []
    for threshold in (0.0, 0.3, 1.0):
        result = tuner.generate(ASKED, cached(threshold), demo, return_frames=True)
        away = float((result.frames - whole.frames).square().mean())
        found.append((result.measured["cache"]["weights"]["hits"], -away))
    assert found == sorted(found, reverse=True)
    assert found[0][1] == 0
    assert found[2][0] < found[0][0] / 2
