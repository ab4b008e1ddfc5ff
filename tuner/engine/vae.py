"""The VAE as a stream of frames.

Every convolution over time is causal: an output frame needs its own input frame and the two before it. So
encoder and decoder are run as a chain of stages through which chunks of frames flow, each convolution
remembering the frames its next window begins with. However the frames are cut into chunks, the sums are the
same; what changes is how many frames exist at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import (
    AutoencoderKLMagvit,
    EasyAnimateCausalConv3d,
    EasyAnimateResidualBlock3D,
)
from torch import Tensor, nn
from torch.nn import functional

from tuner.engine.cache import Feature, FeatureCache
from tuner.engine.layout import FRAME_LAYOUTS, FrameLayout, Kernels
from tuner.engine.placement import Placement
from tuner.meter.meter import Meter
from tuner.settings import Settings


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


class _Stage:
    """A run of layers between two places where the stream is cut into chunks.

    Args:
        number: Its place in the chain.
        limit: Frames it takes at most at a time; 0 means all.
    """

    def __init__(self, number: int, limit: int, layout: FrameLayout, placement: Placement) -> None:
        self.number = number
        self.limit = limit
        self._layout, self._placement = layout, placement
        self._steps: list[_Residual | _CausalConv | _Norm | _Upsample | _Downsample] = []
        self._convs = 0

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
        self._steps.append(_Downsample(downsampler, self, self._layout))

    def frames_out(self, seen: int, frames: int) -> int:
        """How many frames come out for ``frames`` more after ``seen``."""
        for step in self._steps:
            if isinstance(step, _Upsample | _Downsample):
                return step.frames_out(seen, frames)
        return frames

    def run(self, frames: Tensor, features: FeatureCache) -> Tensor | None:
        """Push frames through all layers; None while a window is not full."""
        features.begin_visit()
        out: Tensor | None = frames
        del frames
        for step in self._steps:
            out = step(out) if isinstance(step, _Norm) else step(out, features)
            if out is None:
                return None
        return out


class _Residual:
    """Norm, convolve, norm, convolve, add."""

    def __init__(
        self, block: EasyAnimateResidualBlock3D, stage: _Stage, layout: FrameLayout, placement: Placement
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

    def __init__(self, upsampler: nn.Module, stage: _Stage, layout: FrameLayout) -> None:
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

    def __init__(self, downsampler: nn.Module, stage: _Stage, layout: FrameLayout) -> None:
        assert isinstance(downsampler.conv, EasyAnimateCausalConv3d)
        self._conv = stage.conv(downsampler.conv)
        self._stride = downsampler.conv.stride[0]
        self._layout = layout

    def frames_out(self, seen: int, frames: int) -> int:
        return -(-(seen + frames) // self._stride) - -(-seen // self._stride)

    def __call__(self, frames: Tensor, features: FeatureCache) -> Tensor | None:
        return self._conv(self._layout.pad(frames), features)


def _full(frames: Tensor | None) -> Tensor:
    assert frames is not None, "a convolution of stride 1 always has a full window"
    return frames


def _pieces(frames: int, limit: int) -> list[int]:
    """Lengths that ``frames`` are cut into."""
    if not limit or frames <= limit:
        return [frames] if frames else []
    return [min(limit, frames - start) for start in range(0, frames, limit)]


def _visits(stages: Sequence[_Stage], inputs: Sequence[int]) -> list[int]:
    """The stages' numbers in the order in which :func:`_flow` runs them."""
    seen = [0] * len(stages)
    return [number for frames in inputs for number in _visits_from(0, frames, stages, seen)]


def _visits_from(number: int, frames: int, stages: Sequence[_Stage], seen: list[int]) -> Iterator[int]:
    # No closure that calls itself: that is a reference cycle, and would keep the stages' weights on the device
    # until some later garbage collection.
    if number == len(stages):
        return
    for piece in _pieces(frames, stages[number].limit):
        yield number
        out = stages[number].frames_out(seen[number], piece)
        seen[number] += piece
        yield from _visits_from(number + 1, out, stages, seen)


def _flow(
    stages: Sequence[_Stage], frames: Tensor, features: FeatureCache, layout: FrameLayout
) -> Iterator[Tensor]:
    """Push frames through the stages, depth first, giving what comes out of the last one."""
    if not stages:
        yield frames
        return
    lengths = _pieces(frames.shape[layout.time], stages[0].limit)
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    for start, stop in pairwise(starts):
        out = stages[0].run(frames.narrow(layout.time, start, stop - start), features)
        if out is not None:
            yield from _flow(stages[1:], out, features, layout)


class VaeRunner:
    """Runs a VAE whose weights are on the host, within the knobs.

    ``chunk_size`` bounds the video frames that exist at once, ``layout`` says how they lie in memory, and
    ``cache_capacity`` how many bytes of remembered frames stay on the device.

    Args:
        vae: Weights on the host; GroupNorm per frame (``spatial_group_norm``), as every EasyAnimateV5 has.
        settings: The knobs.
        device: Where to compute; by default the first CUDA card, else the CPU.
        meter: Counts transfers and cache use.

    Raises:
        ValueError: The VAE normalises over frames, so that it cannot be run in chunks.
    """

    def __init__(
        self,
        vae: AutoencoderKLMagvit,
        settings: Settings,
        device: torch.device | str | None = None,
        *,
        meter: Meter | None = None,
    ) -> None:
        if not vae.config["spatial_group_norm"]:
            raise ValueError("spatial_group_norm: this VAE normalises over frames and cannot be run in chunks")
        self._vae = vae
        self._settings = settings
        self._placement = Placement(device, meter)
        self._meter = self._placement.meter
        self._whole_videos = settings.layout == "contiguous"

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode a video.

        Args:
            video: ``[B, 3, T, H, W]`` in -1..1, on the host or the device.

        Returns:
            Posterior mode ``[B, 16, t, h, w]`` on the device, not scaled.
        """
        return torch.cat([self._encode_one(clip[None]) for clip in video])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode latents, chunk by chunk.

        Args:
            latents: ``[B, 16, t, h, w]``, not scaled, on the host or the device.

        Yields:
            ``[B, 3, frames, H, W]`` in about -1..1 on the device, in order, together ``4 * (t - 1) + 1``
            frames. A chunk may be a view of memory that the next one reuses: copy what you keep.
        """
        latents = self._placement.on_device(latents)
        clips = [self._decode_one(clip[None]) for clip in latents]
        for chunks in zip(*clips, strict=True):
            yield chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def _layout(self) -> FrameLayout:
        return FRAME_LAYOUTS[self._settings.layout]()

    def _features(self, stages: Sequence[_Stage], inputs: Sequence[int]) -> FeatureCache:
        counter = self._meter.caches["features"]
        return FeatureCache(_visits(stages, inputs), self._placement, self._settings.cache_bytes, counter)

    def _limit(self, frames_per_latent: int) -> int:
        """Frames at a stage where ``frames_per_latent`` of 4 video frames exist."""
        size = self._settings.chunk_size
        return max(1, size * frames_per_latent // 4) if size else 0

    def _encode_one(self, video: Tensor) -> Tensor:
        layout, total = self._layout(), video.shape[2]
        stages = self._encoder(layout)
        # The first frame makes a latent frame of its own, and so do every four that follow.
        size = self._settings.chunk_size
        inputs = [1, *_pieces(total - 1, size)] if size else [total]
        features = self._features(stages, inputs)
        if self._whole_videos:
            video = self._placement.on_device(video)
        moments, start = [], 0
        for count in inputs:
            self._meter.checkpoint()
            chunk = video[:, :, start : start + count]
            frames = layout.enter(chunk if self._whole_videos else self._placement.on_device(chunk))
            moments += [layout.leave(out) for out in _flow(stages, frames, features, layout)]
            start += count
        features.close()
        return self._pointwise(self._vae.quant_conv, torch.cat(moments, dim=2)).chunk(2, dim=1)[0].contiguous()

    def _decode_one(self, latents: Tensor) -> Iterator[Tensor]:
        layout = self._layout()
        stages = self._decoder(layout)
        hidden = layout.enter(self._pointwise(self._vae.post_quant_conv, latents))
        features = self._features(stages, [hidden.shape[layout.time]])
        whole: Tensor | None = None
        start = 0
        for frames in _flow(stages, hidden, features, layout):
            chunk = layout.leave(frames)
            if self._whole_videos:
                if whole is None:
                    total = 4 * (latents.shape[2] - 1) + 1
                    whole = chunk.new_empty(*chunk.shape[:2], total, *chunk.shape[3:])
                place = whole[:, :, start : start + chunk.shape[2]]
                start += chunk.shape[2]
                chunk = place.copy_(chunk)
            self._meter.checkpoint()
            yield chunk
        features.close()

    def _pointwise(self, conv: nn.Conv3d, moments: Tensor) -> Tensor:
        bias = self._placement.to_device(conv.bias) if conv.bias is not None else None
        return functional.conv3d(moments, self._placement.to_device(conv.weight), bias)

    def _encoder(self, layout: FrameLayout) -> list[_Stage]:
        encoder: Any = self._vae.encoder
        stages = [_Stage(number, 0, layout, self._placement) for number in range(len(encoder.down_blocks))]
        stages[0].add_conv(encoder.conv_in)
        for stage, block in zip(stages, encoder.down_blocks, strict=True):
            stage.add_residuals(block.convs)
            if block.downsampler is not None:
                stage.add_downsample(block.downsampler)
        stages[-1].add_residuals(encoder.mid_block.convs)
        stages[-1].add_norm(encoder.conv_norm_out, encoder.conv_act)
        stages[-1].add_conv(encoder.conv_out)
        return stages

    def _decoder(self, layout: FrameLayout) -> list[_Stage]:
        decoder: Any = self._vae.decoder
        stages, frames_per_latent = [], 1
        for number, block in enumerate(decoder.up_blocks):
            stage = _Stage(number, self._limit(frames_per_latent), layout, self._placement)
            if number == 0:
                stage.add_conv(decoder.conv_in)
                stage.add_residuals(decoder.mid_block.convs)
            stage.add_residuals(block.convs)
            if block.upsampler is not None:
                stage.add_upsample(block.upsampler)
                frames_per_latent *= 2 if block.upsampler.temporal_upsample else 1
            stages.append(stage)
        stages[-1].add_norm(decoder.conv_norm_out, decoder.conv_act)
        stages[-1].add_conv(decoder.conv_out)
        return stages
