"""The VAE's whole-clip forward with gradients, several times faster than diffusers' own on a CPU.

The engine streams a clip through the VAE and keeps no gradients; diffusers convolves window by window. Training
wants whole clips: here frames lie after one another, ``[T * B, C, H, W]``, and a causal convolution over time is
one 2-D convolution whose input channels are those of the frames it looks at. The
modules' own weights are used, so what is trained is what is saved.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional


class FoldedVae(nn.Module):
    """Runs ``vae`` on whole clips.

    Args:
        vae: GroupNorm per frame (``spatial_group_norm``), as every EasyAnimateV5 has.
    """

    def __init__(self, vae: AutoencoderKLMagvit) -> None:
        super().__init__()
        self.vae: Any = vae

    def encode(self, video: Tensor) -> Tensor:
        """Moments of the posterior: mean, then log of the variance.

        Args:
            video: ``[B, 3, T, H, W]`` in -1..1, T = 4k + 1.

        Returns:
            ``[B, 32, k + 1, H / 8, W / 8]``.
        """
        encoder, clips = self.vae.encoder, len(video)
        hidden = _conv(encoder.conv_in, _frames(video), clips)
        for block in encoder.down_blocks:
            hidden = _residuals(block.convs, hidden, clips)
            if block.downsampler is not None:
                hidden = _conv(block.downsampler.conv, functional.pad(hidden, (0, 1, 0, 1)), clips)
        hidden = _residuals(encoder.mid_block.convs, hidden, clips)
        hidden = _conv(encoder.conv_out, encoder.conv_act(encoder.conv_norm_out(hidden)), clips)
        return _clips(_point(self.vae.quant_conv, hidden), clips)

    def decode(self, latents: Tensor) -> Tensor:
        """Clips of latents.

        Args:
            latents: ``[B, 16, t, h, w]``, not scaled.

        Returns:
            ``[B, 3, 4 * (t - 1) + 1, 8 * h, 8 * w]`` in about -1..1.
        """
        decoder, clips = self.vae.decoder, len(latents)
        hidden = _conv(decoder.conv_in, _point(self.vae.post_quant_conv, _frames(latents)), clips)
        hidden = _residuals(decoder.mid_block.convs, hidden, clips)
        for block in decoder.up_blocks:
            hidden = _residuals(block.convs, hidden, clips)
            if block.upsampler is not None:
                hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
                hidden = _conv(block.upsampler.conv, hidden, clips)
                if block.upsampler.temporal_upsample:
                    first, later = hidden[:clips], hidden[clips:].unflatten(0, (-1, clips))
                    hidden = torch.cat([first, later.repeat_interleave(2, dim=0).flatten(0, 1)])
        hidden = decoder.conv_act(decoder.conv_norm_out(hidden))
        return _clips(_conv(decoder.conv_out, hidden, clips), clips)


def _residuals(blocks: Any, hidden: Tensor, clips: int) -> Tensor:
    for block in blocks:
        hidden = _residual(block, hidden, clips)
    return hidden


def _residual(block: Any, hidden: Tensor, clips: int) -> Tensor:
    inner = _conv(block.conv1, block.nonlinearity(block.norm1(hidden)), clips)
    inner = _conv(block.conv2, block.nonlinearity(block.norm2(inner)), clips)
    shortcut = _point(block.shortcut, hidden) if isinstance(block.shortcut, nn.Conv3d) else hidden
    return inner + shortcut if block.output_scale_factor == 1 else (inner + shortcut) / block.output_scale_factor


def _conv(conv: Any, frames: Tensor, clips: int) -> Tensor:
    """A causal convolution over time; the first frame also stands for those before it."""
    if len(frames) == clips:  # every tap sees the one frame there is
        weight = conv.weight.sum(2)
        return functional.conv2d(frames, weight, conv.bias, stride=conv.stride[1:], padding=conv.padding[1:])
    folded: Any = _Fold.apply(frames, clips, conv.kernel_size[0], conv.stride[0])
    weight = conv.weight.transpose(1, 2).flatten(1, 2)
    return functional.conv2d(folded, weight, conv.bias, stride=conv.stride[1:], padding=conv.padding[1:])


class _Fold(Function):
    """``[T * B, C, H, W]`` into ``[windows * B, taps * C, H, W]``: each window's frames as channels.

    Written out, both ways copy every frame once per window it is in; automatic gradients would fill and add
    tensors of all frames for every tap.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, clips: int, taps: int, stride: int) -> Tensor:
        count, channels, height, width = frames.shape
        ctx.size, ctx.clips, ctx.taps, ctx.stride = frames.shape, clips, taps, stride
        windows = (count // clips - 1) // stride + 1
        folded = frames.new_empty(windows * clips, taps * channels, height, width)
        folded = folded.contiguous(memory_format=_lying(frames))
        timed, placed = frames.unflatten(0, (-1, clips)), folded.unflatten(0, (-1, clips))
        for tap in range(taps):
            early, later = _seen(tap, taps, stride, windows)
            place = placed[:, :, tap * channels : (tap + 1) * channels]
            place[:early] = timed[:1]
            place[early:] = timed[later]
        return folded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        channels = ctx.size[1]
        gradient = grads[0].new_zeros(ctx.size).contiguous(memory_format=_lying(grads[0]))
        timed, placed = gradient.unflatten(0, (-1, ctx.clips)), grads[0].unflatten(0, (-1, ctx.clips))
        for tap in range(ctx.taps):
            early, later = _seen(tap, ctx.taps, ctx.stride, len(placed))
            place = placed[:, :, tap * channels : (tap + 1) * channels]
            timed[0] += place[:early].sum(0)
            timed[later] += place[early:]
        return gradient, None, None, None


def _seen(tap: int, taps: int, stride: int, windows: int) -> tuple[int, slice]:
    """How many windows see the first frame in place of one before it, and the frames that the others see."""
    before = taps - 1 - tap
    early = min(windows, -(-before // stride))
    first = early * stride - before
    return early, slice(first, first + (windows - early) * stride, stride)


def _lying(frames: Tensor) -> torch.memory_format:
    """Channels innermost on a card, whose tensor cores want them so.

    On a CPU with bfloat16 all of a training step was measured to take half the time with channels outermost:
    norms and copies lose more to the other than convolutions gain.
    """
    return torch.channels_last if frames.device.type == "cuda" else torch.contiguous_format


def _point(conv: nn.Conv3d, frames: Tensor) -> Tensor:
    return functional.conv2d(frames, conv.weight[:, :, 0], conv.bias)


def _frames(video: Tensor) -> Tensor:
    """``[B, C, T, H, W]`` as ``[T * B, C, H, W]``."""
    return video.permute(2, 0, 1, 3, 4).flatten(0, 1).contiguous(memory_format=_lying(video))


def _clips(frames: Tensor, clips: int) -> Tensor:
    """``[T * B, C, H, W]`` as ``[B, C, T, H, W]``."""
    return frames.unflatten(0, (-1, clips)).permute(1, 2, 0, 3, 4)
