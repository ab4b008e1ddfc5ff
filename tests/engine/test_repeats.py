from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.repeats import come_again, repeats_after, repeats_of


def test_frames_that_were_not_given_are_all_the_same():
    assert repeats_of(5, {0}) == [True, False, True, True, True]
    assert repeats_of(5, {0, 4}) == [True, False, True, True, False]
    assert repeats_of(3, {0, 1, 2}) == [True, False, False]
    assert repeats_of(1, {0}) == [True]


def convolved(frames: list[int], taps: int, stride: int) -> list[tuple[int, ...]]:
    """What each output frame of a causal convolution is made of."""
    padded = frames[:1] * (taps - 1) + frames
    return [tuple(padded[end : end + taps]) for end in range(0, len(frames), stride)]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=24), st.integers(1, 4), st.sampled_from([1, 2]))
def test_an_output_is_said_to_repeat_only_when_it_does(frames, convolutions, stride):
    repeats = [number == 0 or frames[number - 1] == frame for number, frame in enumerate(frames)]
    outputs = convolved(frames, 2 * convolutions + 1, stride)
    for number, again in enumerate(repeats_after(repeats, 2 * convolutions, stride)):
        assert not again or number == 0 or outputs[number - 1] == outputs[number]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=24), st.integers(0, 24), st.integers(0, 6))
def test_a_chunk_is_said_to_come_again_only_when_it_does(frames, start, count):
    repeats = [number == 0 or frames[number - 1] == frame for number, frame in enumerate(frames)]
    if come_again(repeats, start, count):
        assert count and frames[start - count : start] == frames[start : start + count]


def test_a_constant_clip_comes_again():
    repeats = repeats_after(repeats_of(13, {0}), memory=4, stride=2)
    assert repeats == [True, False, False, False, True, True, True]
    assert come_again(repeats, 5, 2) and not come_again(repeats, 4, 2)
    assert not come_again(repeats, 6, 2)  # past the end
