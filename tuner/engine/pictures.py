"""Pictures into the model: fitted to the clip's size, placed in a video of which the rest is unknown."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from tuner.request import Request, open_picture

_UNKNOWN = -1.0


def fitted_pictures(request: Request, workers: int) -> dict[str, np.ndarray]:
    """The request's start and end pictures, each uint8 ``[H, W, 3]`` in the clip's size.

    A picture of another shape is scaled to cover the clip and cropped around its centre.

    Raises:
        BadInput: A picture is missing, no picture, or too large.
    """
    given = {"start_image": request.start_image, "end_image": request.end_image}
    wanted = {field: picture for field, picture in given.items() if picture is not None}

    def fit(field: str) -> np.ndarray:
        picture = open_picture(field, wanted[field])
        return np.asarray(ImageOps.fit(picture, (request.width, request.height), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        return dict(zip(wanted, pool.map(fit, wanted), strict=True))


def digest(pictures: dict[str, np.ndarray]) -> str:
    """Equal for equal pictures."""
    sha = hashlib.sha256()
    for field, pixels in sorted(pictures.items()):
        sha.update(field.encode())
        sha.update(pixels.tobytes())
    return sha.hexdigest()


def known_frames(pictures: dict[str, np.ndarray], frames: int) -> Tensor:
    """1 where a frame is given and 0 where the model makes it: float32 ``[1, 1, frames, 1, 1]``."""
    known = torch.zeros(1, 1, frames, 1, 1)
    if "start_image" in pictures:
        known[:, :, 0] = 1
    if "end_image" in pictures:
        known[:, :, -1] = 1
    return known


def masked_video(
    pictures: dict[str, np.ndarray],
    frames: int,
    noise_strength: float,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """The pictures in an otherwise unknown video, ``[1, 3, frames, H, W]`` in -1..1 on the host.

    Args:
        pictures: From :func:`fitted_pictures`, at least one.
        frames: Length of the video.
        noise_strength: Standard deviation of the noise added to the pictures (EasyAnimate trained with some).
        generator: Of that noise.
        dtype: Of the result.
    """
    height, width, _ = next(iter(pictures.values())).shape
    video = torch.full((1, 3, frames, height, width), _UNKNOWN, dtype=dtype)
    for field, frame in (("start_image", 0), ("end_image", -1)):
        if field not in pictures:
            continue
        pixels = torch.from_numpy(pictures[field].copy()).permute(2, 0, 1).float().div_(255).mul_(2).sub_(1)
        picture = pixels.to(dtype)
        noise = torch.randn(pixels.shape, generator=generator).to(dtype) * noise_strength
        # Black is also how unknown looks, and stays without noise in training.
        video[0, :, frame] = torch.where(picture == _UNKNOWN, picture, picture + noise)
    return video


def mask_latents(known: Tensor, latents_shape: torch.Size, scaling_factor: float) -> Tensor:
    """The mask at the latents' size, ``[1, 1, t, h, w]``.

    The first frame has a latent frame of its own; the others are resized over time, as the original does.

    Args:
        known: From :func:`known_frames`.
        latents_shape: ``[1, 16, t, h, w]``.
        scaling_factor: The VAE's.
    """
    _, _, frames, height, width = latents_shape
    parts = [known[:, :, :1]]
    if frames > 1:
        later = known[:, :, 1:]
        parts.append(functional.interpolate(later, size=(frames - 1, 1, 1), mode="trilinear", align_corners=False))
    return torch.cat(parts, dim=2).expand(1, 1, frames, height, width) * scaling_factor
