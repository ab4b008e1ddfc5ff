from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import BadInput
from tuner.settings import GIB, KNOBS, Settings, parse_knob


def test_every_field_is_a_knob_explained_in_both_languages():
    assert list(KNOBS) == list(Settings.model_fields)
    for knob in KNOBS.values():
        assert all(knob.title), knob
        assert all(knob.help), knob


def test_the_four_knobs_come_first_and_the_rest_is_advanced():
    plain = [name for name, knob in KNOBS.items() if not knob.advanced]
    assert plain == ["chunk_size", "batch_size", "cache_capacity", "layout"] == list(KNOBS)[:4]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"chunk_size": 3}, "chunk_size: 3 is not allowed; allowed: 0, 1, 2, 4, 8, 16, 32, 64"),
        ({"chunk_size": "4"}, "chunk_size: '4' is not allowed; allowed: a whole number"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed; allowed: 1 to 16 samples"),
        ({"batch_size": True}, "batch_size: True is not allowed; allowed: a whole number"),
        ({"cache_capacity": -0.5}, "cache_capacity: -0.5 is not allowed; allowed: 0 to 1024 GiB"),
        ({"cache_capacity": float("nan")}, "cache_capacity: nan is not allowed; allowed: a finite number"),
        ({"layout": "tiled"}, "layout: 'tiled' is not allowed; allowed: contiguous, chunked or interleaved"),
    ],
)
def test_a_bad_value_is_one_line_with_what_is_allowed(values, line):
    for refuse in (lambda: Settings(**values), lambda: Settings().replace(**values)):
        with pytest.raises(BadInput) as raised:
            refuse()
        assert str(raised.value) == line


def test_an_unknown_knob_is_named():
    with pytest.raises(BadInput, match=r"chunksize.*no such key; one of chunk_size, batch_size"):
        Settings(chunksize=4)


@given(st.sampled_from(list(KNOBS)), st.data())
def test_what_a_knob_allows_can_be_written_as_text(name, data):
    knob = KNOBS[name]
    if knob.choices:
        value = data.draw(st.sampled_from(knob.choices))
    else:
        number = st.integers if isinstance(getattr(Settings(), name), int) else st.floats
        value = data.draw(number(knob.minimum, knob.maximum))
    assert parse_knob(f"{name} = {value}") == (name, value)
    assert getattr(Settings(**{name: value}), name) == value


@pytest.mark.parametrize("text", ["chunk_size", "nonsense=1", "chunk_size=four", "cache_capacity=", ""])
def test_text_that_sets_nothing_is_refused(text):
    with pytest.raises(BadInput):
        parse_knob(text)


@given(st.floats(0, 1024))
def test_capacity_is_gibibytes(capacity):
    assert Settings(cache_capacity=capacity).cache_bytes == int(capacity * GIB)
