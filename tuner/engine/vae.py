"""The VAE as a stream of frames: videos into latents, and latents into chunks of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch import Tensor, nn
from torch.nn import functional

from tuner.engine.cache import FeatureCache
from tuner.engine.layout import FRAME_LAYOUTS, FrameLayout, Windowed
from tuner.engine.placement import Placement
from tuner.engine.stages import Stage, flow, pieces, visits
from tuner.meter.meter import Meter
from tuner.settings import Settings


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
    def encode(self, video: Tensor, repeats: Sequence[bool] = ()) -> Tensor:
        """Encode a video.

        Args:
            video: ``[B, 3, T, H, W]`` in -1..1, on the host or the device.
            repeats: For each frame, whether it is like the one before (see :mod:`tuner.engine.repeats`); what
                only repeats is not encoded again. Empty when nothing is known.

        Returns:
            Posterior mode ``[B, 16, t, h, w]`` on the device, not scaled.
        """
        return torch.cat([self._encode_one(clip[None], repeats) for clip in video])

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

    def _features(self, stages: Sequence[Stage], inputs: Sequence[int]) -> FeatureCache:
        counter = self._meter.caches["features"]
        return FeatureCache(visits(stages, inputs), self._settings.cache_bytes, counter)

    def _limit(self, frames_per_latent: int) -> int:
        """Frames at a stage where ``frames_per_latent`` of 4 video frames exist."""
        size = self._settings.chunk_size
        return max(1, size * frames_per_latent // 4) if size else 0

    def _encode_one(self, video: Tensor, repeats: Sequence[bool]) -> Tensor:
        # A picture steers every step: it is encoded with stock's own arithmetic, whatever the layout.
        layout, total = Windowed(), video.shape[2]
        stages = self._encoder(layout)
        for stage in stages:
            repeats = stage.expect(repeats)
        # The first frame makes a latent frame of its own, and so do every four that follow.
        size = self._settings.chunk_size
        inputs = [1, *pieces(total - 1, size)] if size else [total]
        features = self._features(stages, inputs)
        if self._whole_videos:
            video = self._placement.on_device(video)
        moments, start = [], 0
        for count in inputs:
            self._meter.checkpoint()
            chunk = video[:, :, start : start + count]
            handed = [layout.enter(chunk if self._whole_videos else self._placement.on_device(chunk))]
            moments += [layout.leave(out) for out in flow(stages, handed, features, layout.time)]
            start += count
        features.close()
        return self._pointwise(self._vae.quant_conv, torch.cat(moments, dim=2)).chunk(2, dim=1)[0].contiguous()

    def _decode_one(self, latents: Tensor) -> Iterator[Tensor]:
        layout = FRAME_LAYOUTS[self._settings.layout]()
        stages = self._decoder(layout)
        hidden = layout.enter(self._pointwise(self._vae.post_quant_conv, latents))
        features = self._features(stages, [hidden.shape[layout.time]])
        whole: Tensor | None = None
        start = 0
        for frames in flow(stages, [hidden], features, layout.time):
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

    def _encoder(self, layout: FrameLayout) -> list[Stage]:
        encoder: Any = self._vae.encoder
        stages = [Stage(number, 0, layout, self._placement, True) for number in range(len(encoder.down_blocks))]
        stages[0].add_conv(encoder.conv_in)
        for stage, block in zip(stages, encoder.down_blocks, strict=True):
            stage.add_residuals(block.convs)
            if block.downsampler is not None:
                stage.add_downsample(block.downsampler)
        stages[-1].add_residuals(encoder.mid_block.convs)
        stages[-1].add_norm(encoder.conv_norm_out, encoder.conv_act)
        stages[-1].add_conv(encoder.conv_out)
        return stages

    def _decoder(self, layout: FrameLayout) -> list[Stage]:
        decoder: Any = self._vae.decoder
        stages, frames_per_latent = [], 1
        for number, block in enumerate(decoder.up_blocks):
            stage = Stage(number, self._limit(frames_per_latent), layout, self._placement)
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
