"""How the VAE's frames lie in memory, and the convolutions that suit each way.

``contiguous`` keeps a pass as one ``[1, C, T, H, W]`` tensor and convolves in three dimensions, as diffusers
does. ``chunked`` keeps frame after frame, ``[T, C, H, W]``: a frame is one contiguous piece, GroupNorm needs
no permuted copy, and a causal 3-D convolution is the sum of one 2-D convolution per temporal tap.
``interleaved`` also puts channels innermost (channels-last) and folds the taps into the channels of a single
2-D convolution. All three compute the same sums.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tuner.engine.placement import Placement

Kernels = tuple[list[Tensor], Tensor | None]
"""A convolution's weights as a layout wants them, and its bias, on the device."""


class FrameLayout(Protocol):
    """What the VAE asks of a memory layout. ``time`` is the dimension of frames in a block."""

    time: int

    def enter(self, video: Tensor) -> Tensor:
        """A block of frames from ``[1, C, T, H, W]``."""
        ...

    def leave(self, frames: Tensor) -> Tensor:
        """``[1, C, T, H, W]`` from a block of frames, without a copy."""
        ...

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        """Weights of ``conv`` on the device, arranged for :meth:`convolve`."""
        ...

    def convolve(self, conv: nn.Conv3d, kernels: Kernels, past: Tensor | None, frames: Tensor) -> Tensor:
        """Every full temporal window of ``past`` followed by ``frames``, convolved."""
        ...

    def group_norm(self, frames: Tensor, norm: nn.GroupNorm, weight: Tensor, bias: Tensor) -> Tensor:
        """GroupNorm of each frame by itself."""
        ...

    def upsample(self, frames: Tensor) -> Tensor:
        """Twice as high and wide, nearest."""
        ...

    def pad(self, frames: Tensor) -> Tensor:
        """One row of zeros below and one column right."""
        ...


class Contiguous:
    """Blocks are ``[1, C, T, H, W]``; convolutions are 3-D."""

    time = 2

    def enter(self, video: Tensor) -> Tensor:
        return video.contiguous()

    def leave(self, frames: Tensor) -> Tensor:
        return frames

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        return [placement.to_device(conv.weight)], _bias(conv, placement)

    def convolve(self, conv: nn.Conv3d, kernels: Kernels, past: Tensor | None, frames: Tensor) -> Tensor:
        (weight,), bias = kernels
        window = frames if past is None else torch.cat([past, frames], dim=2)
        return functional.conv3d(window, weight, bias, stride=_ints(conv.stride), padding=_ints(conv.padding))

    def group_norm(self, frames: Tensor, norm: nn.GroupNorm, weight: Tensor, bias: Tensor) -> Tensor:
        apart = frames.transpose(1, 2).flatten(0, 1)
        normed = functional.group_norm(apart, norm.num_groups, weight, bias, norm.eps)
        return normed.unflatten(0, (1, -1)).transpose(1, 2)

    def upsample(self, frames: Tensor) -> Tensor:
        return functional.interpolate(frames, scale_factor=(1, 2, 2), mode="nearest")

    def pad(self, frames: Tensor) -> Tensor:
        return functional.pad(frames, (0, 1, 0, 1))


class Windowed(Contiguous):
    """One 3-D convolution per temporal window, as diffusers computes them: the same bits, whatever the chunk."""

    def convolve(self, conv: nn.Conv3d, kernels: Kernels, past: Tensor | None, frames: Tensor) -> Tensor:
        taps, stride = _ints(conv.kernel_size)[0], _ints(conv.stride)[0]
        together = frames if past is None else torch.cat([past, frames], dim=self.time)
        starts = range(0, together.shape[self.time] - taps + 1, stride)
        windows = [together.narrow(self.time, start, taps) for start in starts]
        return torch.cat([super(Windowed, self).convolve(conv, kernels, None, window) for window in windows], 2)


class _FrameAfterFrame:
    """What the two layouts of ``[T, C, H, W]`` blocks share."""

    time = 0
    memory_format = torch.contiguous_format

    def enter(self, video: Tensor) -> Tensor:
        return video[0].transpose(0, 1).contiguous(memory_format=self.memory_format)

    def leave(self, frames: Tensor) -> Tensor:
        return frames.transpose(0, 1).unsqueeze(0)

    def group_norm(self, frames: Tensor, norm: nn.GroupNorm, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.group_norm(frames, norm.num_groups, weight, bias, norm.eps)

    def upsample(self, frames: Tensor) -> Tensor:
        return functional.interpolate(frames, scale_factor=2, mode="nearest")

    def pad(self, frames: Tensor) -> Tensor:
        return functional.pad(frames, (0, 1, 0, 1)).contiguous(memory_format=self.memory_format)


class Chunked(_FrameAfterFrame):
    """One 2-D convolution per temporal tap, summed; windows are views, nothing is concatenated."""

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        weight = placement.to_device(conv.weight)
        return [tap.contiguous() for tap in weight.unbind(2)], _bias(conv, placement)

    def convolve(self, conv: nn.Conv3d, kernels: Kernels, past: Tensor | None, frames: Tensor) -> Tensor:
        taps, bias = kernels
        stride, padding = _ints(conv.stride), _ints(conv.padding)
        pieces = [frames] if past is None else [past, frames]
        windows = _windows(sum(len(piece) for piece in pieces), len(taps), stride[0])
        total: Tensor | None = None
        for index, tap in enumerate(taps):
            start = 0
            for piece in _strided(pieces, index, windows, stride[0]):
                part = functional.conv2d(piece, tap, bias if index == 0 else None, stride[1:], padding[1:])
                if total is None:
                    total = part.new_empty(windows, *part.shape[1:])
                place = total[start : start + len(part)]
                place.copy_(part) if index == 0 else place.add_(part)
                start += len(part)
        assert total is not None
        return total


class Interleaved(_FrameAfterFrame):
    """Channels innermost; the temporal taps are channels of one 2-D convolution.

    Norms read one frame at a time with channels outermost: with channels innermost PyTorch's CPU kernel was
    measured to be off by 9e-5, against 1e-6, and to take twice as long; the CUDA one copies anyway.
    """

    memory_format = torch.channels_last

    def group_norm(self, frames: Tensor, norm: nn.GroupNorm, weight: Tensor, bias: Tensor) -> Tensor:
        normed = torch.empty_like(frames)
        for frame, place in zip(frames.split(1), normed.split(1), strict=True):
            place.copy_(functional.group_norm(frame.contiguous(), norm.num_groups, weight, bias, norm.eps))
        return normed

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        weight = placement.to_device(conv.weight)
        folded = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=self.memory_format)
        return [folded], _bias(conv, placement)

    def convolve(self, conv: nn.Conv3d, kernels: Kernels, past: Tensor | None, frames: Tensor) -> Tensor:
        (weight,), bias = kernels
        stride, padding = _ints(conv.stride), _ints(conv.padding)
        taps, channels = _ints(conv.kernel_size)[0], frames.shape[1]
        if taps == 1:
            return functional.conv2d(frames, weight, bias, stride[1:], padding[1:])
        pieces = [frames] if past is None else [past, frames]
        windows = _windows(sum(len(piece) for piece in pieces), taps, stride[0])
        folded = torch.empty(
            (windows, taps * channels, *frames.shape[2:]),
            dtype=frames.dtype,
            device=frames.device,
            memory_format=self.memory_format,
        )
        for index in range(taps):
            start = 0
            for piece in _strided(pieces, index, windows, stride[0]):
                folded[start : start + len(piece), index * channels : (index + 1) * channels] = piece
                start += len(piece)
        return functional.conv2d(folded, weight, bias, stride[1:], padding[1:])


FRAME_LAYOUTS: dict[str, type[FrameLayout]] = {
    "contiguous": Contiguous,
    "chunked": Chunked,
    "interleaved": Interleaved,
}


def _windows(frames: int, taps: int, stride: int) -> int:
    return (frames - taps) // stride + 1


def _strided(pieces: list[Tensor], start: int, count: int, stride: int) -> list[Tensor]:
    """Frames ``start, start + stride, ...`` (``count`` of them) of the pieces in a row, as views."""
    found, passed, next_ = [], 0, start
    for piece in pieces:
        if count and next_ < passed + len(piece):
            view = piece[next_ - passed :: stride][:count]
            found.append(view)
            count -= len(view)
            next_ += len(view) * stride
        passed += len(piece)
    return found


def _bias(conv: nn.Conv3d, placement: Placement) -> Tensor | None:
    return placement.to_device(conv.bias) if conv.bias is not None else None


def _ints(value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value
