"""What finished runs teach, and whom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner import hardware
from tuner.engine.generate import generate
from tuner.forecast.compare import errors
from tuner.forecast.forecast import Forecaster
from tuner.forecast.learning import FinishedRun, Learned
from tuner.models.load import load_model
from tuner.request import Request
from tuner.settings import Settings

GIB = 2**30
CLIP = Request(width=64, height=64, frames=9, steps=4)
PICTURE = np.full((64, 64, 3), 90, np.uint8)


def forecast_of(gpu: str = "a10", steps: int = 10, **seconds: float) -> dict[str, Any]:
    return {
        "gpu": gpu,
        "peak_allocated_bytes": GIB,
        "step_seconds": [1.0] * steps,
        "stages": [{"name": name, "seconds": of, "peak_allocated_bytes": GIB} for name, of in seconds.items()],
    }


def finished(factor: float, settings: Settings | None = None, gpu: str = "a10", **seconds: float) -> FinishedRun:
    """A run that took ``factor`` times its forecast."""
    forecast = forecast_of(gpu, 10, **(seconds or {"denoise": 10.0, "decode": 4.0}))
    stages = [{**stage, "seconds": stage["seconds"] * factor} for stage in forecast["stages"]]
    return FinishedRun("demo", settings or Settings(), forecast, {**forecast, "stages": stages})


def factor_of(learned: Learned, stage: str = "decode", settings: Settings | None = None, **forecast: Any) -> float:
    found = learned.factors(forecast_of(**(forecast or {stage: 4.0})), settings or Settings(), "demo")
    return found["stages"][stage]["factor"] if found else 1.0


def test_without_runs_nothing_changes() -> None:
    forecaster = Forecaster()
    before = forecaster.forecast(CLIP, Settings(), gpu="a10")
    assert before.learned is None and "learned" not in before.to_json()


def test_one_run_that_was_disturbed_does_not_count_among_three() -> None:
    assert factor_of(Learned([finished(1.2), finished(9.0), finished(1.3)])) == pytest.approx(1.3)


def test_what_it_rests_on_is_said() -> None:
    found = Learned([finished(1.2) for _ in range(7)]).factors(forecast_of(decode=4.0), Settings(), "demo")
    assert found == {"runs": 7, "stages": {"decode": {"factor": pytest.approx(1.2), "runs": 5}}}


@pytest.mark.parametrize(
    ("settings", "gpu"),
    [
        (Settings(), "l4"),
        (Settings(engine="stock"), "a10"),
        (Settings(precision="float16"), "a10"),
        (Settings(attention="_native_math"), "a10"),
        (Settings(step_cache="first_block"), "a10"),
    ],
)
def test_runs_say_nothing_about_another_card_engine_precision_attention_or_step_cache(
    settings: Settings, gpu: str
) -> None:
    learned = Learned([finished(3.0)])
    assert factor_of(learned) == pytest.approx(3.0)
    assert factor_of(learned, settings=settings, gpu=gpu, decode=4.0) == 1.0


def test_the_runs_most_alike_count() -> None:
    small = [finished(3.0, decode=1.0) for _ in range(3)]
    large = [finished(1.5, decode=100.0) for _ in range(3)]
    other = [finished(9.0, Settings(layout="contiguous"), decode=4.0) for _ in range(3)]
    learned = Learned([*other, *small, *large])
    assert factor_of(learned, decode=1.5) == pytest.approx(3.0)
    assert factor_of(learned, decode=80.0) == pytest.approx(1.5)
    assert factor_of(learned, settings=Settings(layout="contiguous"), decode=4.0) == pytest.approx(9.0)


def test_one_run_that_is_the_same_counts_more_than_several_that_are_not() -> None:
    others = [finished(1.0, decode=seconds) for seconds in (2.0, 2.1, 8.0)]
    assert factor_of(Learned([finished(2.0, decode=4.0), *others]), decode=4.0) == pytest.approx(2.0)


def test_of_equally_like_runs_the_newest_count() -> None:
    assert factor_of(Learned([finished(2.0)] * 5 + [finished(1.0)] * 20)) == pytest.approx(2.0)


def test_more_steps_are_no_larger_clip() -> None:
    few, many = (finished(factor, denoise=seconds) for factor, seconds in ((2.0, 10.0), (5.0, 100.0)))
    learned = Learned([few, few, few, many, many, many])
    assert factor_of(learned, "denoise", steps=100, denoise=100.0) == pytest.approx(2.0)


def test_a_stage_whose_result_was_kept_teaches_nothing() -> None:
    run = finished(1.0)
    kept = [{"name": "decode", "seconds": 0.001, "peak_allocated_bytes": 10}]
    assert (
        factor_of(Learned([FinishedRun("demo", run.settings, run.forecast, {**run.measured, "stages": kept})]))
        == 1
    )


def test_a_run_forecast_with_what_was_learned_teaches_the_same() -> None:
    plain = finished(2.0, decode=4.0)
    lesson = {"runs": 1, "stages": {"decode": {"factor": 1.6, "runs": 1}}}
    learned = {**forecast_of(decode=4.0 * 1.6), "learned": lesson}
    again = FinishedRun("demo", Settings(), learned, plain.measured)
    assert factor_of(Learned([again])) == pytest.approx(factor_of(Learned([plain])))


def test_a_card_that_left_the_table_is_passed_over() -> None:
    assert factor_of(Learned([finished(2.0, gpu="voodoo2")])) == 1.0


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_no_run_makes_a_forecast_absurd(ratios: list[float]) -> None:
    assert 0.05 <= factor_of(Learned([finished(ratio) for ratio in ratios])) <= 20


def test_seconds_and_only_seconds_follow_and_no_other_card_does() -> None:
    forecaster = Forecaster()
    before = forecaster.forecast(CLIP, Settings(), gpu="cpu")
    end = forecaster.timeline(CLIP, Settings(), gpu="cpu")[-1].seconds
    other = forecaster.forecast(CLIP, Settings(), gpu="a10")
    forecaster.learned = Learned([finished(2.0, None, "cpu", **{stage.name: 1.0 for stage in before.stages})])
    after = forecaster.forecast(CLIP, Settings(), gpu="cpu")
    assert after.learned is not None and after.learned["runs"] == 1
    assert after.seconds == pytest.approx(2 * before.seconds, rel=0.01)
    assert after.step_seconds == pytest.approx([2 * seconds for seconds in before.step_seconds])
    assert [stage.seconds for stage in after.stages] == pytest.approx([2 * s.seconds for s in before.stages])
    assert forecaster.timeline(CLIP, Settings(), gpu="cpu")[-1].seconds == pytest.approx(2 * end, rel=0.01)
    for name in ("peak_allocated_bytes", "peak_reserved_bytes", "fits", "fragmentation"):
        assert getattr(after, name) == getattr(before, name)
    assert forecaster.forecast(CLIP, Settings(), gpu="a10") == other


@pytest.fixture(scope="module")
def real_runs() -> Iterator[dict[str, list[FinishedRun]]]:
    """The demo, made for real, on a computer that the table takes for three times as fast as it takes this one.

    What is learned then has to be far from nothing, however near the table happens to be on the day. Seconds are
    this process's own: what else the computer does is left out.
    """
    cpu = hardware.CARDS["cpu"]
    praised = replace(cpu, rates={name: 3 * rate for name, rate in cpu.rates.items()}, bandwidth=3 * cpu.bandwidth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "CARDS", {**hardware.CARDS, "cpu": praised})
        yield made_for_real()


def made_for_real() -> dict[str, list[FinishedRun]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    components, forecaster = load_model("demo", device="cpu"), Forecaster()
    runs: dict[str, list[FinishedRun]] = {"tuned": [], "stock": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.meter.meter.time.perf_counter", time.process_time)
        for size, steps in ((48, 4), (64, 2), (64, 2), (80, 3)):
            request = CLIP.replace(width=size, height=size, steps=steps, start_image=PICTURE)
            for engine, made in runs.items():
                settings = Settings().replace(engine=engine)
                components.encodings.clear()
                measured: Mapping[str, Any] = generate(request, settings, components).measured
                forecast = forecaster.forecast(request, settings, gpu="cpu").to_json()
                made.append(FinishedRun("demo", settings, forecast, measured))
    torch.set_num_threads(threads)
    return runs


@pytest.mark.parametrize("engine", ["tuned", "stock"])
def test_after_three_runs_a_larger_one_is_forecast_better(
    real_runs: dict[str, list[FinishedRun]], engine: str
) -> None:
    *earlier, last = real_runs[engine]
    request = CLIP.replace(width=80, height=80, steps=3, start_image=PICTURE)
    learned = Forecaster(learned=Learned(earlier)).forecast(request, last.settings, gpu="cpu").to_json()
    before, after = (errors(forecast, last.measured)["seconds"] for forecast in (last.forecast, learned))
    assert before is not None and after is not None
    print(f"{engine}: {before:+.0%} before, {after:+.0%} after")
    assert abs(after) < abs(before)
    assert abs(after) < 0.35
