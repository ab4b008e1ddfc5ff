"""A forecast beside what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.forecast.compare import errors


def side(**stages: tuple[float, int]) -> dict[str, Any]:
    found = [
        {"name": name.replace("_", " "), "seconds": seconds, "peak_allocated_bytes": peak}
        for name, (seconds, peak) in stages.items()
    ]
    return {"peak_allocated_bytes": max(peak for _, peak in stages.values()), "stages": found}


def test_too_much_is_positive_too_little_negative() -> None:
    off = errors(side(denoise=(11, 50), decode=(3, 90)), side(denoise=(10, 50), decode=(4, 100)))
    assert off["peak"] == pytest.approx(-0.1)
    assert off["seconds"] == pytest.approx(0)
    assert off["stages"][0] == {"name": "denoise", "peak": 0, "seconds": pytest.approx(0.1)}
    assert off["stages"][1]["seconds"] == pytest.approx(-0.25)


def test_what_no_forecast_knows_is_left_out() -> None:
    off = errors(side(denoise=(10, 50)), side(load=(60, 5), denoise=(10, 50), write=(9, 7)))
    assert [stage["name"] for stage in off["stages"]] == ["denoise"]
    assert off["seconds"] == 0


def test_a_stage_whose_result_was_kept_is_no_error() -> None:
    off = errors(side(encode_text=(20, 1000), denoise=(10, 50)), side(encode_text=(0.01, 20), denoise=(10, 50)))
    assert [stage["name"] for stage in off["stages"]] == ["denoise"]
    assert off["seconds"] == 0


def test_a_moment_has_no_error_in_time() -> None:
    (stage,) = errors(side(denoise=(1, 50)), side(denoise=(0.01, 50)))["stages"]
    assert (stage["peak"], stage["seconds"]) == (0, None)
