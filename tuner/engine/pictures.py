"""Pictures into the model: fitted to the clip's size, placed in a video of which the rest is unknown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from tuner.errors import BadInput
from tuner.request import Clip, Picture, Request, open_clip, open_picture

_UNKNOWN = -1.0
_MASK_WHITE = 240


@dataclass(frozen=True)
class Given:
    """The frames of a clip that are given.

    Attributes:
        frames: Pixels by frame number, uint8 ``[H, W, 3]`` in the clip's size.
        keep: Which pixels of them are kept, bool ``[H, W]``; None keeps all.
    """

    frames: dict[int, np.ndarray]
    keep: np.ndarray | None = None

    @property
    def digest(self) -> str:
        """Equal for equal pixels at equal places."""
        sha = hashlib.sha256(b"" if self.keep is None else self.keep.tobytes())
        for number, pixels in sorted(self.frames.items()):
            sha.update(str(number).encode())
            sha.update(pixels.tobytes())
        return sha.hexdigest()


def given_frames(request: Request, workers: int) -> Given | None:
    """What the request's pictures, or its source clip and mask, give of the clip; None when they give nothing.

    Raises:
        BadInput: A picture or clip is missing, damaged, too large or too short.
    """
    if request.source_video is not None:
        if request.mask is None:
            return None
        frames = source_frames(request, workers)
        mask = _fitted("mask", request.mask, request).convert("L")
        return Given(dict(enumerate(frames)), np.asarray(mask) < _MASK_WHITE)
    wanted: dict[int, tuple[str, Picture]] = {}
    if request.end_image is not None:
        wanted[request.frames - 1] = ("end_image", request.end_image)
    if request.start_image is not None:  # also when there is but one frame
        wanted[0] = ("start_image", request.start_image)
    if not wanted:
        return None

    def fit(given: tuple[str, Picture]) -> np.ndarray:
        return np.asarray(_fitted(*given, request))

    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        return Given(dict(zip(wanted, pool.map(fit, wanted.values()), strict=True)))


def source_frames(request: Request, workers: int) -> list[np.ndarray]:
    """The request's source clip at its frame rate and size, each frame uint8 ``[H, W, 3]``.

    Raises:
        BadInput: The clip is missing, no clip, or too short.
    """
    assert request.source_video is not None
    pictures = list(_clip_pictures(request.source_video, request.frames, request.fps))
    if len(pictures) < request.frames:
        allowed = f"a clip of at least {request.frames} frames at {request.fps} frames per second"
        raise BadInput("source_video", f"{len(pictures)} frames", allowed)
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        return list(pool.map(lambda picture: np.asarray(_fit(picture, request)), pictures))


def _clip_pictures(clip: Clip, frames: int, fps: int) -> Iterator[Image.Image]:
    """At most ``frames`` pictures of ``clip``, ``1 / fps`` seconds apart."""
    if isinstance(clip, np.ndarray):
        yield from (Image.fromarray(pixels) for pixels in clip[:frames])
        return
    with open_clip(clip) as container:
        found = 0
        for frame in container.decode(video=0):
            while found < frames and (frame.time or 0.0) >= found / fps - 1e-6:
                yield frame.to_image()
                found += 1
            if found == frames:
                return


def _fitted(field: str, picture: Picture, request: Request) -> Image.Image:
    return _fit(open_picture(field, picture), request)


def _fit(picture: Image.Image, request: Request) -> Image.Image:
    """Scaled to cover the clip and cropped around its centre; kept to the bit when it has the clip's size."""
    return ImageOps.fit(picture, (request.width, request.height), Image.Resampling.BICUBIC)


def known_pixels(given: Given, frames: int) -> Tensor:
    """1 where the clip is given and 0 where the model makes it: float32 ``[1, 1, frames, 1 or H, 1 or W]``."""
    keep = torch.ones(1, 1) if given.keep is None else torch.from_numpy(given.keep).float()
    known = torch.zeros(1, 1, frames, *keep.shape)
    for number in given.frames:
        known[0, 0, number] = keep
    return known


def masked_video(
    given: Given, frames: int, noise_strength: float, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """The given pixels in an otherwise unknown video, ``[1, 3, frames, H, W]`` in -1..1 on the host.

    Args:
        given: At least one frame.
        frames: Length of the video.
        noise_strength: Standard deviation of the noise added to the pixels (EasyAnimate trained with some).
        generator: Of that noise.
        dtype: Of the result.
    """
    height, width, _ = next(iter(given.frames.values())).shape
    video = torch.full((1, 3, frames, height, width), _UNKNOWN, dtype=dtype)
    for number, pixels in sorted(given.frames.items()):
        picture = _minus_one_to_one(pixels, dtype)
        if given.keep is not None:
            picture = torch.where(torch.from_numpy(given.keep), picture, _UNKNOWN)
        if noise_strength:
            noise = torch.randn(picture.shape, generator=generator).to(dtype) * noise_strength
            # Black is also how unknown looks, and stays without noise in training.
            picture = torch.where(picture == _UNKNOWN, picture, picture + noise)
        video[0, :, number] = picture
    return video


def whole_video(frames: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    """A clip's frames as ``[1, 3, T, H, W]`` in -1..1 on the host."""
    return torch.stack([_minus_one_to_one(pixels, dtype) for pixels in frames], dim=1)[None]


def _minus_one_to_one(pixels: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255).mul_(2).sub_(1).to(dtype)


def mask_latents(known: Tensor, latents_shape: torch.Size, scaling_factor: float) -> Tensor:
    """The mask at the latents' size, ``[1, 1, t, h, w]``.

    The first frame has a latent frame of its own; the others are resized over time, as the original does.

    Args:
        known: From :func:`known_pixels`.
        latents_shape: ``[1, 16, t, h, w]``.
        scaling_factor: The VAE's.
    """
    _, _, frames, height, width = latents_shape
    high, wide = (height, width) if known.shape[-1] > 1 else (1, 1)
    parts = [_resized(known[:, :, :1], (1, high, wide))]
    if frames > 1:
        parts.append(_resized(known[:, :, 1:], (frames - 1, high, wide)))
    return torch.cat(parts, dim=2).expand(1, 1, frames, height, width) * scaling_factor


def _resized(mask: Tensor, size: tuple[int, int, int]) -> Tensor:
    return functional.interpolate(mask, size=size, mode="trilinear", align_corners=False)
