"""Every knob has a widget that can show and give every value worth choosing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import BadInput
from tuner.machine import Machine
from tuner.settings import GIB, KNOBS, Settings
from tuner.ui.knobs import (
    BRANCHES,
    MIB,
    batch_sizes,
    cache_scale,
    moved_capacity,
    notes,
    same_settings,
    settings_of,
    shown_values,
    widget_of,
)

SEVEN_B = 13_595_000_000
DEMO = 19 * MIB
CPU = Machine("cpu", "CPU", 16 * GIB)
CARD = Machine("cuda", "NVIDIA A10", 24 * GIB)


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_has_a_widget_with_its_allowed_range(name: str) -> None:
    knob = KNOBS[name]
    widget = widget_of(name, knob, cache_scale(SEVEN_B))
    if knob.choices:
        assert widget.choices == knob.choices
    elif name == "batch_size":
        assert widget.choices == (1, BRANCHES)
    else:
        assert widget.minimum == knob.minimum
        assert knob.minimum < widget.maximum <= knob.maximum


@pytest.mark.parametrize("name", KNOBS)
def test_every_widget_can_show_the_default(name: str) -> None:
    scale = cache_scale(DEMO)
    widget = widget_of(name, KNOBS[name], scale)
    value = shown_values(Settings(), scale)[name]
    if widget.choices:
        assert value in widget.choices
    else:
        assert widget.minimum <= value <= widget.maximum


def test_the_cache_slider_counts_in_the_unit_of_the_model() -> None:
    small, large = cache_scale(DEMO), cache_scale(SEVEN_B)
    assert (small.unit, large.unit) == ("MiB", "GiB")
    assert small.maximum * MIB >= 2 * DEMO
    assert large.maximum * GIB >= SEVEN_B
    assert large.maximum - SEVEN_B / GIB < large.step


@given(st.integers(1, 40 * GIB))
def test_the_cache_slider_reaches_all_the_model_can_use_in_whole_steps(cache_bytes: int) -> None:
    scale = cache_scale(cache_bytes)
    assert scale.maximum * scale.unit_bytes >= cache_bytes * (1 - 1e-6)
    assert scale.maximum / scale.step == pytest.approx(round(scale.maximum / scale.step))


def test_a_capacity_survives_the_slider() -> None:
    scale = cache_scale(SEVEN_B)
    settings = Settings(cache_capacity=6.25, chunk_size=8, batch_size=1, layout="chunked")
    assert settings_of(shown_values(settings, scale), scale) == settings


def test_more_than_the_model_can_use_is_all_of_it() -> None:
    scale = cache_scale(DEMO)
    assert shown_values(Settings(cache_capacity=16.0), scale)["cache_capacity"] == scale.maximum
    assert same_settings(Settings(cache_capacity=16.0), Settings(cache_capacity=1.0), scale)


def test_all_of_the_cache_stays_all_of_it_when_the_model_changes() -> None:
    small, large = cache_scale(DEMO), cache_scale(SEVEN_B)
    assert moved_capacity(small.maximum, small, large) == large.maximum
    assert moved_capacity(1.0, large, small) == small.maximum
    assert moved_capacity(2.0, large, large) == 2.0


def test_a_batch_can_hold_both_branches_of_every_clip() -> None:
    assert batch_sizes(1) == (1, 2)
    assert widget_of("batch_size", KNOBS["batch_size"], cache_scale(DEMO), clips=3).choices == (1, 2, 3, 4, 5, 6)
    settings = Settings(batch_size=8)
    assert [shown_values(settings, cache_scale(DEMO), clips)["batch_size"] for clips in (1, 3, 4)] == [2, 6, 8]
    assert same_settings(settings, Settings(batch_size=2), cache_scale(DEMO))
    assert not same_settings(settings, Settings(batch_size=2), cache_scale(DEMO), clips=4)


def test_sliders_give_floats_where_a_knob_is_whole() -> None:
    assert settings_of({"prefetch": 2.0, "batch_size": 1.0}, cache_scale(DEMO)).prefetch == 2


@pytest.mark.parametrize("value", [None, "much", True, 2.5])
def test_a_value_that_is_no_whole_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadInput, match="workers"):
        settings_of({"workers": value}, cache_scale(DEMO))


def test_an_empty_cache_field_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="cache_capacity"):
        settings_of({"cache_capacity": None}, cache_scale(DEMO))


def test_a_cpu_says_why_prefetch_does_nothing_and_a_card_does_not() -> None:
    assert not notes(CPU, "tuned", "first_block")["prefetch"].usable
    assert notes(CPU, "tuned", "first_block")["precision"].usable
    assert notes(CARD, "tuned", "first_block") == {}


def test_a_threshold_says_so_where_nothing_is_cached() -> None:
    assert set(notes(CARD, "tuned", "off")) == {"step_cache_threshold"}
    assert not notes(CARD, "tuned", "off")["step_cache_threshold"].usable


def test_the_stock_engine_leaves_only_the_knobs_it_obeys() -> None:
    obeyed = set(KNOBS) - set(notes(CARD, "stock", "first_block"))
    assert obeyed == {"precision", "workers", "text_projection", "engine"}


def test_a_slider_at_its_end_means_all_there_is_room_for() -> None:
    scale = cache_scale(12 * GIB)
    assert settings_of({"cache_capacity": scale.maximum}, scale, 8 * GIB).cache_capacity == 8
    assert settings_of({"cache_capacity": scale.maximum}, scale, 80 * GIB).cache_capacity == 12
    assert settings_of({"cache_capacity": 10}, scale, 8 * GIB).cache_capacity == 10, (
        "what was typed is not changed"
    )
