"""How the VAE's frames lie in memory, and the convolutions that suit each way.

``contiguous`` keeps a pass as one ``[1, C, T, H, W]`` tensor and convolves in three dimensions, as diffusers
does. ``chunked`` keeps frame after frame, ``[T, C, H, W]``, and folds the temporal taps of a causal 3-D
convolution into the channels of a single 2-D one. ``interleaved`` does that with channels innermost
(channels-last). All three compute the same sums, and gather no more than :data:`WORKING_BYTES` at a time to
do so: a large frame is convolved in bands of rows that see their neighbours' edges, and normalised by a few
groups of channels after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tuner.engine.frames import Frame
from tuner.engine.placement import Placement

WORKING_BYTES = 128 * 1024**2
"""What a convolution or a norm may gather beside its input and its output."""


class Kernels(NamedTuple):
    """A convolution on the device, as a layout wants it.

    Attributes:
        weight: As the layout's convolutions take it.
        bias: ``[O]``.
        taps: Frames it looks at.
        stride: In time, height, width.
        padding: In time, height, width.
    """

    weight: Tensor
    bias: Tensor | None
    taps: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @classmethod
    def of(cls, conv: nn.Conv3d, weight: Tensor, placement: Placement) -> Kernels:
        """``conv`` with its ``weight`` rearranged, on the device already."""
        bias = placement.to_device(conv.bias) if conv.bias is not None else None
        return cls(weight, bias, conv.kernel_size[0], _ints(conv.stride), _ints(conv.padding))


class Norm(NamedTuple):
    """A GroupNorm on the device, and the activation after it.

    Attributes:
        groups: Groups of channels.
        weight: ``[C]``.
        bias: ``[C]``.
        eps: Added to the variance.
        activation: Applied to the result.
    """

    groups: int
    weight: Tensor
    bias: Tensor
    eps: float
    activation: nn.Module

    @classmethod
    def of(cls, norm: nn.GroupNorm, activation: nn.Module, placement: Placement) -> Norm:
        """``norm`` with its weights on the device."""
        weight, bias = placement.to_device(norm.weight), placement.to_device(norm.bias)
        return cls(norm.num_groups, weight, bias, norm.eps, activation)


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
        """Weights of ``conv`` on the device, arranged for :meth:`convolve` or :meth:`pointwise`."""
        ...

    def convolve(self, kernels: Kernels, window: Sequence[Frame], enlarge: bool = False) -> Tensor:
        """A block of what every full temporal window among ``window`` comes to.

        Args:
            kernels: From :meth:`kernels`.
            window: Frames in their order.
            enlarge: Double the frames' height and width first, to nearest.
        """
        ...

    def pointwise(self, kernels: Kernels, frames: Tensor) -> Tensor:
        """A convolution whose kernel is a single point."""
        ...

    def group_norm(self, frames: Tensor, norm: Norm, in_place: bool) -> Tensor:
        """GroupNorm of each frame by itself and the activation, into ``frames`` or into a new block."""
        ...


class Contiguous:
    """Blocks are ``[1, C, T, H, W]``; convolutions are 3-D."""

    time = 2

    def enter(self, video: Tensor) -> Tensor:
        return video.contiguous()

    def leave(self, frames: Tensor) -> Tensor:
        return frames

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        return Kernels.of(conv, placement.to_device(conv.weight), placement)

    def convolve(self, kernels: Kernels, window: Sequence[Frame], enlarge: bool = False) -> Tensor:
        taps, padding = kernels.taps, kernels.padding
        height = window[0].shape[-2] * (1 + enlarge)
        row_bytes = taps * _row_bytes(window[0], enlarge)

        def convolved(windows: slice, rows: slice) -> Tensor:
            seen = _seen(rows, height, padding[1])
            frames = [_rows(frame, seen, enlarge) for frame in window[windows.start : windows.stop + taps - 1]]
            out = functional.conv3d(torch.cat(frames, dim=2), kernels.weight, kernels.bias, padding=padding)
            return out.narrow(3, rows.start - seen.start, rows.stop - rows.start)

        return _tiled(convolved, len(window) - taps + 1, height, row_bytes, self.time)

    def pointwise(self, kernels: Kernels, frames: Tensor) -> Tensor:
        return functional.conv3d(frames, kernels.weight, kernels.bias)

    def group_norm(self, frames: Tensor, norm: Norm, in_place: bool) -> Tensor:
        normed = frames if in_place else torch.empty_like(frames)
        for frame, place in zip(frames.unbind(2), normed.unbind(2), strict=True):
            _norm_frame(frame, place, norm)
        return normed


class Windowed(Contiguous):
    """One 3-D convolution per temporal window, as diffusers computes them: the same bits, whatever the chunk."""

    def convolve(self, kernels: Kernels, window: Sequence[Frame], enlarge: bool = False) -> Tensor:
        taps, stride, padding = kernels.taps, kernels.stride, kernels.padding
        assert not enlarge, "only decoding enlarges"
        whole, out = [frame.whole for frame in window], None
        starts = range(0, len(whole) - taps + 1, stride[0])
        for place, start in enumerate(starts):
            frames = whole[start : start + taps]
            seen = _bordered(frames) if stride[1] == 2 else torch.cat(frames, dim=2)
            part = functional.conv3d(seen, kernels.weight, kernels.bias, stride=stride, padding=padding)
            del seen
            if len(starts) == 1:
                return part
            if out is None:
                out = part.new_empty(*part.shape[:2], len(starts), *part.shape[3:])
            out[:, :, place : place + 1] = part
        assert out is not None
        return out


class _FrameAfterFrame:
    """Blocks are ``[T, C, H, W]``; a window's frames are the channels of one 2-D convolution."""

    time = 0
    memory_format = torch.contiguous_format

    def enter(self, video: Tensor) -> Tensor:
        return video[0].transpose(0, 1).contiguous(memory_format=self.memory_format)

    def leave(self, frames: Tensor) -> Tensor:
        return frames.transpose(0, 1).unsqueeze(0)

    def kernels(self, conv: nn.Conv3d, placement: Placement) -> Kernels:
        weight = placement.to_device(conv.weight)
        folded = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=self._operands(weight.dtype))
        return Kernels.of(conv, folded, placement)

    def convolve(self, kernels: Kernels, window: Sequence[Frame], enlarge: bool = False) -> Tensor:
        taps, padding = kernels.taps, kernels.padding
        _, channels, height, width = window[0].shape
        height, width = height * (1 + enlarge), width * (1 + enlarge)
        row_bytes = taps * _row_bytes(window[0], enlarge)
        dtype, device = kernels.weight.dtype, kernels.weight.device

        def convolved(windows: slice, rows: slice) -> Tensor:
            seen = _seen(rows, height, padding[1])
            shape = windows.stop - windows.start, taps * channels, seen.stop - seen.start, width
            folded = torch.empty(shape, dtype=dtype, device=device, memory_format=self._operands(dtype))
            places = [each.unbind() for each in folded.unflatten(1, (taps, channels)).unbind()]
            for index, frame in enumerate(window[windows.start : windows.stop + taps - 1]):
                band = _rows(frame, seen, enlarge)[0]
                for tap in range(max(0, index - len(folded) + 1), min(index + 1, taps)):
                    places[index - tap][tap].copy_(band)
                del band
            out = functional.conv2d(folded, kernels.weight, kernels.bias, padding=padding[1:])
            return out.narrow(2, rows.start - seen.start, rows.stop - rows.start)

        return _tiled(convolved, len(window) - taps + 1, height, row_bytes, self.time, self.memory_format)

    def pointwise(self, kernels: Kernels, frames: Tensor) -> Tensor:
        out = functional.conv2d(frames, kernels.weight, kernels.bias)
        return out.contiguous(memory_format=self.memory_format)

    def group_norm(self, frames: Tensor, norm: Norm, in_place: bool) -> Tensor:
        normed = frames if in_place else torch.empty_like(frames)
        for frame, place in zip(frames.split(1), normed.split(1), strict=True):
            _norm_frame(frame, place, norm)
        return normed

    def _operands(self, dtype: torch.dtype) -> torch.memory_format:
        """How a convolution's input and weights lie."""
        return self.memory_format


class Chunked(_FrameAfterFrame):
    """Each frame is one contiguous piece, channel after channel."""


class Interleaved(_FrameAfterFrame):
    """Channels innermost, as convolutions in 16 bits want them on tensor cores.

    Norms see channels outermost: with channels innermost PyTorch's CPU kernel was measured to be off by 9e-5,
    against 1e-6, and to take twice as long; the CUDA one copies anyway. So do convolutions in float32: those of
    a CPU add in longer chains with channels innermost, and were measured to be off by 1.2e-6, against 2.5e-7.
    """

    memory_format = torch.channels_last

    def _operands(self, dtype: torch.dtype) -> torch.memory_format:
        return torch.contiguous_format if dtype == torch.float32 else self.memory_format


FRAME_LAYOUTS: dict[str, type[FrameLayout]] = {
    "contiguous": Contiguous,
    "chunked": Chunked,
    "interleaved": Interleaved,
}


def _tiled(
    convolved: Callable[[slice, slice], Tensor],
    windows: int,
    height: int,
    row_bytes: int,
    time: int,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """All windows convolved, as many at a time as :data:`WORKING_BYTES` allow, a large one band by band.

    Args:
        convolved: Gives some windows' output, of some rows.
        windows: How many there are.
        height: Of the output.
        row_bytes: What one row of one window gathers.
        time: Dimension of frames.
        memory_format: How the result lies.
    """
    together = max(1, WORKING_BYTES // (row_bytes * height))
    bands = _bands(height, row_bytes)
    if windows <= together and len(bands) == 1:
        return convolved(slice(0, windows), bands[0]).contiguous(memory_format=memory_format)
    out: Tensor | None = None
    for start in range(0, windows, together):
        stop = min(start + together, windows)
        for rows in bands:
            part = convolved(slice(start, stop), rows)
            if out is None:
                shape = list(part.shape)
                shape[time], shape[-2] = windows, height
                out = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=memory_format)
            out.narrow(time, start, stop - start)[..., rows, :] = part
    assert out is not None
    return out


def _bands(height: int, row_bytes: int) -> list[slice]:
    """Rows cut into as few even bands as :data:`WORKING_BYTES` allow."""
    count = min(height, -(-row_bytes * height // WORKING_BYTES))
    edges = [height * band // count for band in range(count + 1)]
    return [slice(top, bottom) for top, bottom in pairwise(edges)]


def _seen(rows: slice, height: int, padding: int) -> slice:
    """The rows that a convolution of ``rows`` looks at; beyond the frame it sees its own zeros."""
    return slice(max(0, rows.start - padding), min(height, rows.stop + padding))


def _rows(frame: Frame, rows: slice, enlarge: bool) -> Tensor:
    """Some rows of a frame, or of the frame at twice its size."""
    if not enlarge:
        return frame.rows(rows.start, rows.stop)
    top, bottom = rows.start // 2, -(-rows.stop // 2)
    small = frame.rows(top, bottom)
    scale = (1, 2, 2) if small.ndim == 5 else (2, 2)
    large = functional.interpolate(small, scale_factor=scale, mode="nearest")
    return large.narrow(-2, rows.start - 2 * top, rows.stop - rows.start)


def _row_bytes(frame: Frame, enlarge: bool) -> int:
    return frame.nbytes // frame.shape[-2] * (1 + enlarge)


def _norm_frame(frame: Tensor, place: Tensor, norm: Norm) -> None:
    """Normalise one frame ``[1, C, H, W]`` into ``place``, a few groups of channels after the other."""
    channels = frame.shape[1]
    width = channels // norm.groups
    groups = max(1, WORKING_BYTES // (frame.nbytes // norm.groups))
    for start in range(0, channels, groups * width):
        part = slice(start, min(start + groups * width, channels))
        some = frame[:, part].contiguous()
        count = (part.stop - start) // width
        normed = functional.group_norm(some, count, norm.weight[part], norm.bias[part], norm.eps)
        del some
        silu = isinstance(norm.activation, nn.SiLU)
        place[:, part] = functional.silu(normed, inplace=True) if silu else norm.activation(normed)


def _bordered(frames: list[Tensor]) -> Tensor:
    """Frames ``[1, C, 1, H, W]`` as one block with a row of zeros below and a column right, as halving wants."""
    *size, height, width = frames[0].shape
    out = frames[0].new_zeros(*size[:2], len(frames), height + 1, width + 1)
    for frame, place in zip(frames, out.split(1, 2), strict=True):
        place[..., :height, :width] = frame
    return out


def _ints(value: object) -> tuple[int, ...]:
    assert isinstance(value, tuple)
    return value
