"""The VAE's layers as a chain of stages through which chunks of frames flow.

Every convolution over time is causal: an output frame needs its own input frame and the two before it. Each
one remembers the frames its next window begins with, so that however a clip is cut into chunks, the sums are
the same; what changes is how many frames exist at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import (
    EasyAnimateCausalConv3d,
    EasyAnimateResidualBlock3D,
)
from torch import Tensor, nn

from tuner.engine.cache import Feature, FeatureCache
from tuner.engine.frames import Frame
from tuner.engine.layout import FrameLayout, Norm
from tuner.engine.placement import Placement
from tuner.engine.repeats import come_again, repeats_after

Handed = list[Tensor]
"""Blocks of frames handed over: who takes one out holds the only reference, so it is freed when they let go.

It is one block, several single frames, or nothing while a convolution still waits for its window.
"""


class _CausalConv:
    """A convolution over time that remembers the frames its next window begins with."""

    def __init__(self, conv: EasyAnimateCausalConv3d, feature: Feature, layout: FrameLayout, placement: Placement):
        self._feature = feature
        self._layout, self._placement = layout, placement
        self._kernels = layout.kernels(conv, placement)

    def run(self, handed: Handed, features: FeatureCache, enlarge: bool = False) -> Handed:
        """Convolve, if there are enough frames for a window.

        Args:
            handed: The next frames of the stream.
            features: Keeps the remembered frames.
            enlarge: Convolve frames of twice the height and width (what is remembered stays small).
        """
        taps, stride = self._kernels.taps, self._kernels.stride[0]
        fresh = [Frame(frame, self._placement) for frame in handed.pop().split(1, self._layout.time)]
        past = features.take(self._feature) or [fresh[0]] * (taps - 1)
        window = [*past, *fresh]
        del past, fresh
        windows = max(0, (len(window) - taps) // stride + 1)
        out = [self._layout.convolve(self._kernels, window, enlarge)] if windows else []
        features.put(self._feature, window[windows * stride :])
        return out


class _Norm:
    """GroupNorm of each frame, then the activation."""

    def __init__(self, norm: nn.GroupNorm, activation: nn.Module, layout: FrameLayout, placement: Placement):
        self._norm, self._layout = Norm.of(norm, activation, placement), layout

    def run(self, handed: Handed, features: FeatureCache) -> Handed:
        return [self.normed(handed.pop(), in_place=True)]

    def normed(self, frames: Tensor, in_place: bool = False) -> Tensor:
        return self._layout.group_norm(frames, self._norm, in_place)


class Stage:
    """A run of layers between two places where the stream is cut into chunks.

    Args:
        number: Its place in the chain.
        limit: Frames it takes at most at a time; 0 means all.
        layout: How frames lie.
        placement: Brings weights to the device.
        reuses: It may be told of repetition, and then gives an output again.
    """

    def __init__(
        self, number: int, limit: int, layout: FrameLayout, placement: Placement, reuses: bool = False
    ) -> None:
        self.number = number
        self.limit = limit
        self.overwrites_input = not reuses
        self._layout, self._placement = layout, placement
        self._steps: list[_Residual | _CausalConv | _Norm | _Upsample | _Downsample] = []
        self._convs = 0
        self._stride = 1
        self._seen = 0
        self._repeats: list[bool] = []
        self._output: Handed = []

    def conv(self, conv: EasyAnimateCausalConv3d) -> _CausalConv:
        """A convolution that remembers under this stage's next feature."""
        self._convs += 1
        return _CausalConv(conv, Feature(self.number, self._convs - 1), self._layout, self._placement)

    def norm(self, norm: nn.GroupNorm, activation: nn.Module) -> _Norm:
        """A norm and its activation."""
        return _Norm(norm, activation, self._layout, self._placement)

    def add_conv(self, conv: EasyAnimateCausalConv3d) -> None:
        """Append a plain convolution."""
        self._steps.append(self.conv(conv))

    def add_norm(self, norm: nn.GroupNorm, activation: nn.Module) -> None:
        """Append a norm and its activation."""
        self._steps.append(self.norm(norm, activation))

    def add_residuals(self, blocks: Iterable[nn.Module]) -> None:
        """Append residual blocks."""
        for block in blocks:
            assert isinstance(block, EasyAnimateResidualBlock3D)
            self._steps.append(_Residual(block, self, self._layout, self._placement))

    def add_upsample(self, upsampler: nn.Module) -> None:
        """Append doubling of height and width, and of frames if the upsampler does that."""
        self._steps.append(_Upsample(upsampler, self, self._layout))

    def add_downsample(self, downsampler: nn.Module) -> None:
        """Append halving of height and width, and of frames if the downsampler does that."""
        halving = _Downsample(downsampler, self)
        self._stride = halving.stride
        self._steps.append(halving)

    def frames_out(self, seen: int, frames: int) -> int:
        """How many frames come out for ``frames`` more after ``seen``."""
        for step in self._steps:
            if isinstance(step, _Upsample | _Downsample):
                return step.frames_out(seen, frames)
        return frames

    def expect(self, repeats: Sequence[bool]) -> list[bool]:
        """Take notice of which input frames are like the one before; returns the same for the output."""
        # Each convolution of three taps looks two frames back.
        self._repeats = repeats_after(repeats, 2 * self._convs, self._stride)
        return self._repeats

    def run(self, handed: Handed, features: FeatureCache) -> Handed:
        """Push the first block of ``handed`` through all layers, unless the last output is known to come again."""
        features.begin_visit()
        frames = handed[0].shape[self._layout.time]
        first, count = self.frames_out(0, self._seen), self.frames_out(self._seen, frames)
        # A chunk of half a stride gives a frame every other time only.
        whole = frames % self._stride == 0
        self._seen += frames
        if whole and self._output and come_again(self._repeats, first, count):
            handed.pop(0)
            return list(self._output)
        self._output = []
        handed = [handed.pop(0)]
        for step in self._steps:
            handed = step.run(handed, features)
            if not handed:
                break
        if whole and come_again(self._repeats, first + count, count):
            self._output = list(handed)
        return handed


class _Residual:
    """Norm, convolve, norm, convolve, add."""

    def __init__(
        self, block: EasyAnimateResidualBlock3D, stage: Stage, layout: FrameLayout, placement: Placement
    ) -> None:
        self._norm1 = stage.norm(block.norm1, block.nonlinearity)
        self._conv1 = stage.conv(block.conv1)
        self._norm2 = stage.norm(block.norm2, block.nonlinearity)
        self._conv2 = stage.conv(block.conv2)
        self._layout = layout
        self._shortcut = (
            layout.kernels(block.shortcut, placement) if isinstance(block.shortcut, nn.Conv3d) else None
        )
        self._overwrites_input = stage.overwrites_input
        self._factor = block.output_scale_factor

    def run(self, handed: Handed, features: FeatureCache) -> Handed:
        if self._shortcut:
            shortcut = self._layout.pointwise(self._shortcut, handed[0])
            handed = [self._norm1.normed(handed.pop(), self._overwrites_input)]
        else:
            shortcut = handed.pop()
            handed = [self._norm1.normed(shortcut)]
        handed = self._norm2.run(self._conv1.run(handed, features), features)
        hidden = self._conv2.run(handed, features).pop().add_(shortcut)
        return [hidden if self._factor == 1 else hidden.div_(self._factor)]


class _Upsample:
    """Nearest doubling of height and width, a convolution, and doubling of all frames but the first."""

    def __init__(self, upsampler: nn.Module, stage: Stage, layout: FrameLayout) -> None:
        assert isinstance(upsampler.conv, EasyAnimateCausalConv3d)
        self._conv = stage.conv(upsampler.conv)
        self._doubles = bool(upsampler.temporal_upsample)
        self._layout = layout
        self._begun = False

    def frames_out(self, seen: int, frames: int) -> int:
        if not self._doubles:
            return frames
        return 2 * frames - (1 if seen == 0 and frames else 0)

    def run(self, handed: Handed, features: FeatureCache) -> Handed:
        handed = self._conv.run(handed, features, enlarge=True)
        if not self._doubles:
            return handed
        begun, self._begun = self._begun, True
        first, *later = handed.pop().split(1, self._layout.time)
        return [first, *([first] if begun else []), *(frame for frame in later for _ in range(2))]


class _Downsample:
    """A convolution of stride 2 in height and width, and in time if the downsampler does that."""

    def __init__(self, downsampler: nn.Module, stage: Stage) -> None:
        assert isinstance(downsampler.conv, EasyAnimateCausalConv3d)
        self._conv = stage.conv(downsampler.conv)
        self.stride = downsampler.conv.stride[0]

    def frames_out(self, seen: int, frames: int) -> int:
        return -(-(seen + frames) // self.stride) - -(-seen // self.stride)

    def run(self, handed: Handed, features: FeatureCache) -> Handed:
        return self._conv.run(handed, features)


def pieces(frames: int, limit: int) -> list[int]:
    """Lengths that ``frames`` are cut into."""
    if not limit or frames <= limit:
        return [frames] if frames else []
    return [min(limit, frames - start) for start in range(0, frames, limit)]


def visits(stages: Sequence[Stage], inputs: Sequence[int]) -> list[int]:
    """The stages' numbers in the order in which :func:`flow` runs them."""
    seen = [0] * len(stages)
    return [number for frames in inputs for number in _visits_from(0, frames, stages, seen)]


def _visits_from(number: int, frames: int, stages: Sequence[Stage], seen: list[int]) -> Iterator[int]:
    # No closure that calls itself: that is a reference cycle, and would keep the stages' weights on the device
    # until some later garbage collection.
    if number == len(stages):
        return
    for piece in pieces(frames, stages[number].limit):
        yield number
        out = stages[number].frames_out(seen[number], piece)
        seen[number] += piece
        yield from _visits_from(number + 1, out, stages, seen)


def flow(stages: Sequence[Stage], handed: Handed, features: FeatureCache, time: int) -> Iterator[Tensor]:
    """Push frames through the stages, depth first, giving what comes out of the last one.

    Args:
        stages: Those still ahead.
        handed: What comes next; emptied.
        features: Keeps what convolutions remember.
        time: Dimension of frames.
    """
    if not stages:
        while handed:
            yield handed.pop(0)
        return
    blocks = _cut(handed, stages[0].limit, time)
    while blocks:
        yield from flow(stages[1:], stages[0].run(blocks, features), features, time)


def _cut(handed: Handed, limit: int, time: int) -> Handed:
    """Blocks of ``limit`` frames; those made of single frames, one of which may come twice, are copies."""
    if len(handed) == 1:
        whole = handed.pop()
        return list(whole.split(limit or whole.shape[time], time))
    size = limit or len(handed)
    blocks = [torch.cat(handed[start : start + size], time) for start in range(0, len(handed), size or 1)]
    handed.clear()
    return blocks
