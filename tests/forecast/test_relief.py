"""The smallest change that makes a clip fit: the engine rehearsed on cards that are too small."""

from __future__ import annotations

from functools import partial

import pytest

from tests.forecast.tiny_card import add_card
from tuner.forecast.forecast import Forecaster
from tuner.forecast.relief import Ask, relief, smaller_clip
from tuner.request import Request
from tuner.settings import KNOBS, Settings

REQUEST = Request(width=128, height=128, frames=17, steps=4)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster()


def ask_of(forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch, usable_mib: int) -> Ask:
    forecaster.__init__()  # forecasts are remembered by the card's name
    return partial(forecaster.forecast, gpu=add_card(monkeypatch, usable_mib))


def test_what_fits_needs_no_change(forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ask_of(forecaster, monkeypatch, 400)
    assert relief(ask, REQUEST, Settings()) == ({}, ask(REQUEST, Settings()))


def test_one_knob_is_moved_as_little_as_will_do(forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, whole = ask_of(forecaster, monkeypatch, 100), Settings(chunk_size=0)
    assert not ask(REQUEST, whole).fits
    found = relief(ask, REQUEST, whole)
    assert found is not None
    changes, forecast = found
    assert forecast.fits and list(changes) == ["chunk_size"]
    larger = [choice for choice in KNOBS["chunk_size"].choices if choice > changes["chunk_size"]]
    assert larger and not ask(REQUEST, whole.replace(chunk_size=min(larger))).fits


def test_stock_is_told_to_be_tuned(forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Settings(chunk_size=1, cache_capacity=0.0)
    stock = small.replace(engine="stock")
    peaks = [forecaster.forecast(REQUEST, settings, gpu="a10").peak_reserved_bytes for settings in (small, stock)]
    between = sum(peaks) // 2 // 2**20
    ask = ask_of(forecaster, monkeypatch, between)
    found = relief(ask, REQUEST, stock)
    assert found is not None and found[0] == {"engine": "tuned"}


def test_where_no_setting_helps_there_is_none(forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert relief(ask_of(forecaster, monkeypatch, 12), REQUEST, Settings()) is None


def test_a_smaller_clip_has_a_published_size_and_keeps_its_orientation(
    forecaster: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, settings = REQUEST.replace(width=768, height=1344, frames=5), Settings(chunk_size=0)
    peak = forecaster.forecast(large, settings, gpu="a10").peak_allocated_bytes
    ask = ask_of(forecaster, monkeypatch, peak // 2**20 - 50)
    assert not ask(large, settings).fits
    found = smaller_clip(ask, large, settings)
    assert found is not None
    changes, forecast = found
    assert changes in ({"width": 576, "height": 1008}, {"width": 384, "height": 672})
    assert forecast.fits
