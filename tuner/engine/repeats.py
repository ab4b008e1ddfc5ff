"""Which frames of a stream only repeat the one before: known in advance, so that no frames are compared.

A picture's clip is one frame and then nothing but unknown ones, so most of encoding it is repetition. Layers that
look back so many frames give the same frame again once their input has been one frame for that long.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def repeats_of(frames: int, given: Collection[int]) -> list[bool]:
    """For each frame of a clip, whether it is like the one before.

    Args:
        frames: How many there are. What stands before the first one is like it.
        given: The frames that differ from each other; all others are the same one.
    """
    return [number == 0 or not {number - 1, number} & set(given) for number in range(frames)]


def repeats_after(repeats: Sequence[bool], memory: int, stride: int) -> list[bool]:
    """The same for the frames that come out of causal layers.

    Args:
        repeats: For the frames that go in.
        memory: How many earlier frames an output frame depends on.
        stride: One output frame for so many input frames.
    """
    outputs = range(0, len(repeats), stride)
    return [number == 0 or all(repeats[max(0, number - stride - memory + 1) : number + 1]) for number in outputs]


def come_again(repeats: Sequence[bool], start: int, count: int) -> bool:
    """Whether frames ``start`` and on, ``count`` of them, are like as many before them."""
    return start >= count > 0 and start + count <= len(repeats) and all(repeats[start - count + 1 : start + count])
