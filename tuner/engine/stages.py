"""The VAE's layers as a chain of stages through which chunks of frames flow.

Every convolution over time is causal: an output frame needs its own input frame and the two before it. Each
one remembers the frames its next window begins with, so that however a clip is cut into chunks, the sums are
the same; what changes is how many frames exist at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import (
    EasyAnimateCausalConv3d,
    EasyAnimateResidualBlock3D,
)
from torch import Tensor, nn
from torch.nn import functional

from tuner.engine.cache import Feature, FeatureCache
from tuner.engine.layout import FrameLayout, Kernels
from tuner.engine.placement import Placement


class _CausalConv:
    """A convolution over time that remembers the frames its next window begins with."""

    def __init__(self, conv: EasyAnimateCausalConv3d, feature: Feature, layout: FrameLayout, placement: Placement):
        self._conv = conv
        self._feature = feature
        self._layout = layout
        self._kernels: Kernels = layout.kernels(conv, placement)
        self._taps, self._stride = conv.kernel_size[0], conv.stride[0]

    def __call__(self, frames: Tensor, features: FeatureCache, enlarge: bool = False) -> Tensor | None:
        """Convolve; None while there are too few frames for a window.

        Args:
            frames: The next frames of the stream.
            features: Keeps the remembered frames.
            enlarge: Convolve frames of twice the height and width (what is remembered stays small).
        """
        time = self._layout.time
        past = features.take(self._feature)
        if past is None:
            first = frames.narrow(time, 0, 1)
            past = torch.cat([first] * (self._taps - 1), dim=time)
        available = past.shape[time] + frames.shape[time]
        windows = max(0, (available - self._taps) // self._stride + 1)
        keep = available - windows * self._stride
        out = None
        if windows:
            if enlarge:
                out = self._layout.convolve(
                    self._conv, self._kernels, self._layout.upsample(past), self._layout.upsample(frames)
                )
            else:
                out = self._layout.convolve(self._conv, self._kernels, past, frames)
        features.put(self._feature, self._tail(past, frames, keep))
        return out

    def _tail(self, past: Tensor, frames: Tensor, keep: int) -> Tensor:
        time, fresh = self._layout.time, frames.shape[self._layout.time]
        if keep <= fresh:
            return frames.narrow(time, fresh - keep, keep).clone()
        older = keep - fresh
        return torch.cat([past.narrow(time, past.shape[time] - older, older), frames], dim=time)


class _Norm:
    """GroupNorm of each frame, then the activation in place."""

    def __init__(self, norm: nn.GroupNorm, activation: nn.Module, layout: FrameLayout, placement: Placement):
        self._norm, self._activation, self._layout = norm, activation, layout
        self._weight, self._bias = placement.to_device(norm.weight), placement.to_device(norm.bias)

    def __call__(self, frames: Tensor) -> Tensor:
        normed = self._layout.group_norm(frames, self._norm, self._weight, self._bias)
        if isinstance(self._activation, nn.SiLU):
            return functional.silu(normed, inplace=True)
        return self._activation(normed)


class Stage:
    """A run of layers between two places where the stream is cut into chunks.

    Args:
        number: Its place in the chain.
        limit: Frames it takes at most at a time; 0 means all.
        layout: How frames lie.
        placement: Brings weights to the device.
        reuses: Give the last output again when the input only repeats itself.
    """

    def __init__(
        self, number: int, limit: int, layout: FrameLayout, placement: Placement, reuses: bool = False
    ) -> None:
        self.number = number
        self.limit = limit
        self._reuses = reuses and placement.device.type != "meta"  # fake tensors cannot be compared
        self._layout, self._placement = layout, placement
        self._steps: list[_Residual | _CausalConv | _Norm | _Upsample | _Downsample] = []
        self._convs = 0
        self._stride = 1
        self._repeated = _Repeated()

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
        halving = _Downsample(downsampler, self, self._layout)
        self._stride = halving.stride
        self._steps.append(halving)

    def frames_out(self, seen: int, frames: int) -> int:
        """How many frames come out for ``frames`` more after ``seen``."""
        for step in self._steps:
            if isinstance(step, _Upsample | _Downsample):
                return step.frames_out(seen, frames)
        return frames

    def run(self, frames: Tensor, features: FeatureCache) -> Tensor | None:
        """Push frames through all layers; None while a window is not full."""
        features.begin_visit()
        # A chunk of half a stride gives a frame every other time only.
        reuses = self._reuses and frames.shape[self._layout.time] % self._stride == 0
        if reuses:
            # Each convolution of three taps looks two frames back.
            again = self._repeated.output_for(frames, self._layout.time, memory=2 * self._convs)
            if again is not None:
                return again
        else:
            self._repeated = _Repeated()
        out: Tensor | None = frames
        del frames
        for step in self._steps:
            out = step(out) if isinstance(step, _Norm) else step(out, features)
            if out is None:
                break
        if reuses:
            self._repeated.gave(out)
        return out


class _Repeated:
    """Knows when a stage's output must be that of the chunk before: its input has been one frame for long enough.

    A picture's clip is one frame and then nothing but unknown ones, so most of encoding it is repetition.
    """

    def __init__(self) -> None:
        self._frame: Tensor | None = None
        self._run = 0
        self._length = 0
        self._settled = False
        self._output: Tensor | None = None

    def output_for(self, frames: Tensor, time: int, memory: int) -> Tensor | None:
        """The output for ``frames``, if it is known; call :meth:`gave` with it otherwise.

        Args:
            frames: The next chunk.
            time: Dimension of frames.
            memory: How many earlier frames the output depends on.
        """
        length = frames.shape[time]
        last = frames.narrow(time, length - 1, 1)
        same = self._frame is not None and torch.equal(self._frame.expand_as(frames), frames)
        if same and self._settled and length == self._length and self._output is not None:
            return self._output
        self._settled = same and self._run >= memory
        self._run = self._run + length if same else int(torch.equal(last.expand_as(frames), frames)) * length
        self._frame, self._length, self._output = last.clone(), length, None
        return None

    def gave(self, output: Tensor | None) -> None:
        """What the chunk just asked about came to."""
        self._output = output


class _Residual:
    """Norm, convolve, norm, convolve, add."""

    def __init__(
        self, block: EasyAnimateResidualBlock3D, stage: Stage, layout: FrameLayout, placement: Placement
    ) -> None:
        self._norm1 = stage.norm(block.norm1, block.nonlinearity)
        self._conv1 = stage.conv(block.conv1)
        self._norm2 = stage.norm(block.norm2, block.nonlinearity)
        self._conv2 = stage.conv(block.conv2)
        self._layout, self._shortcut = layout, block.shortcut
        self._shortcut_kernels = (
            layout.kernels(block.shortcut, placement) if isinstance(block.shortcut, nn.Conv3d) else None
        )
        self._factor = block.output_scale_factor

    def __call__(self, frames: Tensor, features: FeatureCache) -> Tensor:
        hidden = self._norm1(frames)
        if isinstance(self._shortcut, nn.Conv3d) and self._shortcut_kernels:
            frames = self._layout.convolve(self._shortcut, self._shortcut_kernels, None, frames)
        hidden = _full(self._conv1(hidden, features))
        hidden = self._norm2(hidden)
        hidden = _full(self._conv2(hidden, features)).add_(frames)
        return hidden if self._factor == 1 else hidden.div_(self._factor)


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

    def __call__(self, frames: Tensor, features: FeatureCache) -> Tensor:
        out = _full(self._conv(frames, features, enlarge=True))
        if not self._doubles:
            return out
        begun, self._begun = self._begun, True
        time = self._layout.time
        if begun:
            return out.repeat_interleave(2, dim=time)
        later = out.narrow(time, 1, out.shape[time] - 1)
        return torch.cat([out.narrow(time, 0, 1), later.repeat_interleave(2, dim=time)], dim=time)


class _Downsample:
    """A convolution of stride 2 in height and width, and in time if the downsampler does that."""

    def __init__(self, downsampler: nn.Module, stage: Stage, layout: FrameLayout) -> None:
        assert isinstance(downsampler.conv, EasyAnimateCausalConv3d)
        self._conv = stage.conv(downsampler.conv)
        self.stride = downsampler.conv.stride[0]
        self._layout = layout

    def frames_out(self, seen: int, frames: int) -> int:
        return -(-(seen + frames) // self.stride) - -(-seen // self.stride)

    def __call__(self, frames: Tensor, features: FeatureCache) -> Tensor | None:
        return self._conv(self._layout.pad(frames), features)


def _full(frames: Tensor | None) -> Tensor:
    assert frames is not None, "a convolution of stride 1 always has a full window"
    return frames


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


def flow(stages: Sequence[Stage], frames: Tensor, features: FeatureCache, layout: FrameLayout) -> Iterator[Tensor]:
    """Push frames through the stages, depth first, giving what comes out of the last one."""
    if not stages:
        yield frames
        return
    lengths = pieces(frames.shape[layout.time], stages[0].limit)
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    for start, stop in pairwise(starts):
        out = stages[0].run(frames.narrow(layout.time, start, stop - start), features)
        if out is not None:
            yield from flow(stages[1:], out, features, layout)
