"""The request: what to make."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from PIL import Image, ImageOps
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, model_validator

from tuner.checked import Checked
from tuner.errors import BadInput

if TYPE_CHECKING:
    from av.container import InputContainer

MAX_PROMPT_CHARACTERS = 5000
MAX_PIXELS = 50_000_000
MAX_FRAMES = 49

PICTURES = ("start_image", "end_image", "mask")
FILES = (*PICTURES, "source_video")
"""The fields that hold a file rather than a word or a number."""

# Containers only: ffmpeg also follows playlists, whatever their ending, and those name other files to read.
_CLIP_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"

Scheduler = Literal["ddim", "euler", "euler-a", "dpm++", "pndm", "unipc", "flow"]
Picture = str | Path | Image.Image | np.ndarray
Clip = str | Path | np.ndarray


def open_picture(field: str, picture: Picture) -> Image.Image:
    """A picture, from wherever it comes, as an upright RGB image in memory.

    Args:
        field: Name of the request field, for the message.
        picture: Path of an image file, a PIL image, or a uint8 array ``[H, W, 3]``.

    Raises:
        BadInput: The file is missing, is no picture, or has more than 50 million pixels.
    """
    allowed = "a PNG, JPEG, WebP, BMP or GIF picture of at most 50 million pixels"
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise BadInput(field, f"array {picture.dtype}{list(picture.shape)}", "a uint8 array [H, W, 3]")
        return Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return _upright_rgb(picture)
    path = Path(picture)
    if not path.is_file():
        raise BadInput(field, str(picture), f"an existing file: {allowed}")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadInput(field, f"{path.name}, {image.width}x{image.height}", allowed)
            return _upright_rgb(image)
    except (OSError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise BadInput(field, path.name, allowed) from None


@contextmanager
def open_clip(clip: str | Path) -> Iterator[InputContainer]:
    """A video file, opened for reading.

    Raises:
        BadInput: The file is missing, is no clip, or its reading inside the context fails.
    """
    import av
    from av.error import FFmpegError

    allowed = "an existing MP4, MOV, WebM, MKV or AVI file with a video in it"
    if not Path(clip).is_file():
        raise BadInput("source_video", Path(clip), allowed)
    try:
        with av.open(str(clip), options={"format_whitelist": _CLIP_CONTAINERS}) as container:
            if not container.streams.video:
                raise BadInput("source_video", Path(clip).name, allowed)
            yield container
    except (OSError, FFmpegError):
        raise BadInput("source_video", Path(clip).name, allowed) from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return upright.convert("RGB")


def _within(field: str, minimum: float, maximum: float, unit: str = "") -> AfterValidator:
    def check(value: float) -> float:
        if not minimum <= value <= maximum:
            raise BadInput(field, value, f"{minimum:.10g} to {maximum:.10g}{unit}")
        return value

    return AfterValidator(check)


def _side(field: str) -> AfterValidator:
    def check(value: int) -> int:
        if not 16 <= value <= 2048 or value % 16:
            raise BadInput(field, value, "a multiple of 16 from 16 to 2048 pixels")
        return value

    return AfterValidator(check)


def _frames(value: int) -> int:
    if not 1 <= value <= MAX_FRAMES or value % 4 != 1:
        raise BadInput("frames", value, f"4k+1 from 1 to {MAX_FRAMES}: 1, 5, 9, ... {MAX_FRAMES}")
    return value


def _text(field: str) -> AfterValidator:
    def check(value: str) -> str:
        if len(value) > MAX_PROMPT_CHARACTERS:
            raise BadInput(field, value, f"at most {MAX_PROMPT_CHARACTERS} characters")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise BadInput(field, value, "text that is valid Unicode")
        return value

    return AfterValidator(check)


def _picture(field: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and not value):
            return None
        if not isinstance(value, Picture):
            raise BadInput(field, value, "the path of a picture, a PIL image or a uint8 array [H, W, 3]")
        return value

    return BeforeValidator(check)


def _clip(value: Any) -> Any:
    if value is None or (isinstance(value, str) and not value):
        return None
    is_array = isinstance(value, np.ndarray)
    if is_array and not (value.dtype == np.uint8 and value.ndim == 4 and value.shape[3] == 3):
        raise BadInput("source_video", f"array {value.dtype}{list(value.shape)}", "a uint8 array [T, H, W, 3]")
    if not isinstance(value, Clip):
        raise BadInput("source_video", value, "the path of a video file or a uint8 array [T, H, W, 3]")
    return value


def _picture_name(value: Picture | None) -> str | None:
    if value is None or isinstance(value, str | Path):
        return str(value) if value is not None else None
    return "picture in memory"


_PictureName = PlainSerializer(_picture_name, when_used="json")


class Request(Checked):
    """What to make.

    Attributes:
        prompt: What the clip shows, English or Chinese.
        negative_prompt: What it should not show.
        start_image: Picture the clip starts with: path, PIL image or uint8 ``[H, W, 3]``.
        end_image: Picture the clip ends with, likewise.
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
        frames: Video frames, 4k+1.
        fps: Frames per second of the mp4.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale; 1 or less runs one branch only.
        seed: Seed of the starting noise.
        scheduler: Sampler; None takes the checkpoint's own.
        noise_aug_strength: Noise added to given pictures before they are encoded.
        num_clips: Clips to make, with the seeds ``seed``, ``seed + 1``, ...
        source_video: Clip to change: path or uint8 ``[T, H, W, 3]``; needs a mask or a strength below 1.
        mask: Picture that is white where the source clip is made anew; the rest of it is kept.
        strength: How much of the source clip is noised away; 1 starts from noise alone.

    Raises:
        BadInput: A value is not allowed.
    """

    prompt: Annotated[str, _text("prompt")] = ""
    negative_prompt: Annotated[str, _text("negative_prompt")] = ""
    start_image: Annotated[Picture | None, _picture("start_image"), _PictureName] = None
    end_image: Annotated[Picture | None, _picture("end_image"), _PictureName] = None
    width: Annotated[int, _side("width")] = 672
    height: Annotated[int, _side("height")] = 384
    frames: Annotated[int, AfterValidator(_frames)] = 49
    fps: Annotated[int, _within("fps", 1, 60, " frames per second")] = 8
    steps: Annotated[int, _within("steps", 1, 200, " steps")] = 25
    guidance: Annotated[float, _within("guidance", 0, 30)] = 6.0
    seed: Annotated[int, _within("seed", 0, 2**32 - 1)] = 43
    scheduler: Scheduler | None = None
    noise_aug_strength: Annotated[float, _within("noise_aug_strength", 0, 1)] = 0.0563
    num_clips: Annotated[int, _within("num_clips", 1, 16, " clips")] = 1
    source_video: Annotated[Clip | None, BeforeValidator(_clip), _PictureName] = None
    mask: Annotated[Picture | None, _picture("mask"), _PictureName] = None
    strength: Annotated[float, _within("strength", 0.01, 1)] = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.source_video is None:
            if self.mask is not None:
                raise BadInput("mask", "a picture", "given together with source_video")
            if self.strength < 1:
                raise BadInput("strength", self.strength, "1 without a source_video")
            return self
        for field in ("start_image", "end_image"):
            if getattr(self, field) is not None:
                raise BadInput(field, "a picture", "given without source_video")
        if self.mask is None and self.strength == 1:
            raise BadInput("source_video", "alone", "given with a mask, or with a strength below 1")
        return self
