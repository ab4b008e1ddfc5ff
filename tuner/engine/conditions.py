"""What a clip is conditioned on besides its prompt: given pictures, or a source clip, as latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tuner.engine.pictures import (
    Given,
    given_frames,
    known_pixels,
    mask_latents,
    masked_video,
    source_frames,
    whole_video,
)
from tuner.engine.repeats import repeats_of
from tuner.engine.run import Run


def inpaint_latents(run: Run, noise: Tensor) -> Tensor:
    """Mask and masked video for the transformer; zeros where nothing is given, as for text-to-video.

    Args:
        run: Its request's pictures are encoded, unless an earlier run did.
        noise: ``[clips, 16, t, h, w]``; its shape is that of the latents.

    Returns:
        ``[clips, 17, t, h, w]`` on the device.

    Raises:
        BadInput: A picture or clip cannot be used.
    """
    given = given_frames(run.request, run.settings.workers)
    if given is None:
        clips, channels, *size = noise.shape
        return torch.zeros(clips, channels + 1, *size, dtype=noise.dtype, device=run.placement.device)
    encoded = torch.cat([_masked_video_latents(run, given, seed, noise.dtype) for seed in run.seeds])
    with run.meter.host():
        known = known_pixels(given, run.request.frames)
        mask = mask_latents(known, encoded.shape, run.scaling_factor).to(encoded.dtype)
        inpaint = torch.cat([mask.expand(len(encoded), *mask.shape[1:]), encoded], dim=1)
    return run.placement.to_device(inpaint)


def source_latents(run: Run, dtype: torch.dtype) -> Tensor | None:
    """The whole source clip's latents ``[1, 16, t, h, w]`` on the host, if denoising begins with it."""
    request = run.request
    if request.source_video is None or request.strength == 1:
        return None
    frames = source_frames(request, run.settings.workers)
    what = Given(dict(enumerate(frames))).digest
    return _encoded(run, ("source", what), lambda: whole_video(frames, dtype))


def _masked_video_latents(run: Run, given: Given, seed: int, dtype: torch.dtype) -> Tensor:
    request, strength = run.request, run.request.noise_aug_strength

    def video() -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        return masked_video(given, request.frames, strength, generator, dtype)

    noise = (strength, seed) if strength else ()
    repeats = repeats_of(request.frames, given.frames)
    return _encoded(run, ("given", given.digest, request.frames, noise), video, repeats)


def _encoded(
    run: Run, what: tuple[object, ...], video: Callable[[], Tensor], repeats: Sequence[bool] = ()
) -> Tensor:
    """Scaled latents of a video on the host, from the cache or encoded now."""

    def make() -> tuple[Tensor]:
        with run.meter.host():
            pixels = video()
        return (run.placement.to_host(run.engine.vae().encode(pixels, repeats) * run.scaling_factor),)

    return run.encoded.get(("video", what), make)[0]
