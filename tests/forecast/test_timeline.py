from __future__ import annotations

import csv

import pytest

from tuner.errors import BadInput
from tuner.forecast.forecast import Forecaster
from tuner.forecast.timeline import Moment, figure, write_timeline
from tuner.request import Request
from tuner.settings import GIB, Settings

CLIP = Request(width=64, height=64, frames=9, steps=3, start_image="not opened.png")


@pytest.mark.parametrize("gpu", ["a10", "cpu"])
def test_the_moments_lead_to_the_peaks_of_the_forecast(gpu):
    forecaster = Forecaster()
    forecast = forecaster.forecast(CLIP, Settings(), gpu=gpu)
    moments = forecaster.timeline(CLIP, Settings(), gpu=gpu)
    for stage in forecast.stages:
        peak = max(moment.allocated_bytes for moment in moments if moment.stage == stage.name)
        assert peak == stage.peak_allocated_bytes
    assert max(moment.reserved_bytes for moment in moments) == forecast.peak_reserved_bytes
    assert [moment.seconds for moment in moments] == sorted(moment.seconds for moment in moments)


MOMENTS = [Moment(0.0, "denoise", GIB, 2 * GIB), Moment(1.5, "decode", 0, 2 * GIB)]


def test_a_table_and_a_chart_are_written_that_need_no_network(tmp_path):
    table, chart = write_timeline(tmp_path / "run", MOMENTS, "a clip", 8 * GIB)
    with table.open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {key: str(value) for key, value in moment._asdict().items()} for moment in MOMENTS
        ]
    text = chart.read_text(encoding="utf-8")
    assert "<script src=" not in text and "a clip" in text


def test_the_chart_shows_gib_over_seconds_and_the_stages():
    drawn = figure(MOMENTS, "a clip", 8 * GIB)
    allocated, reserved = drawn.data
    assert (allocated.name, list(allocated.x), list(allocated.y)) == ("allocated", [0.0, 1.5], [1.0, 0.0])
    assert (reserved.name, list(reserved.y)) == ("reserved", [2.0, 2.0])
    assert [note.text for note in drawn.layout.annotations] == ["denoise", "decode", "the card's memory"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--timeline"):
        write_timeline(tmp_path / "none" / "run", MOMENTS, "", None)
