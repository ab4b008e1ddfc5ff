"""The options that commands about one clip share: every field of the request, by its own name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from tuner.errors import BadInput
from tuner.request import Request


def whole(field: str) -> Callable[[str], int]:
    """A parser of whole numbers that names the field in its refusal."""

    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise BadInput(field, text, "a whole number") from None

    return parse


def number(field: str) -> Callable[[str], float]:
    """A parser of numbers that names the field in its refusal."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise BadInput(field, text, "a number") from None

    return parse


_TEXTS = {
    "prompt": "What the clip shows, English or Chinese.",
    "negative_prompt": "What it should not show.",
    "scheduler": "Sampler; the checkpoint's own by default.",
}
_FILES = {
    "start_image": "Picture the clip starts with.",
    "end_image": "Picture the clip ends with.",
    "source_video": "Clip to change; needs --mask, or --strength below 1.",
    "mask": "Picture, white where the source clip is made anew.",
}
_WHOLES = {
    "width": "Pixels, a multiple of 16.",
    "height": "Pixels, a multiple of 16.",
    "frames": "Video frames, 4k+1.",
    "fps": "Frames per second of the mp4.",
    "steps": "Denoising steps.",
    "seed": "Seed of the starting noise.",
    "num_clips": "Clips to make: seeds SEED, SEED + 1, ...",
}
_NUMBERS = {
    "guidance": "Classifier-free guidance scale.",
    "noise_aug_strength": "Noise added to the pictures before they are encoded.",
    "strength": "How much of the source clip is noised away, up to 1.",
}


def _request_options() -> dict[str, Any]:
    """The annotation of every option by its field, in the request's order."""
    options: dict[str, Any] = {}
    for name, text in _TEXTS.items():
        options[name] = Annotated[str | None, typer.Option(help=text)]
    for name, text in _FILES.items():
        options[name] = Annotated[str | None, typer.Option(metavar="F", help=text)]
    for name, text in _WHOLES.items():
        options[name] = Annotated[int | None, typer.Option(parser=whole(name), metavar="N", help=text)]
    for name, text in _NUMBERS.items():
        options[name] = Annotated[float | None, typer.Option(parser=number(name), metavar="X", help=text)]
    return {name: options[name] for name in Request.model_fields if name in options}


def with_request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` an option for every field of the request; it gets them together as ``flags``.

    Args:
        command: Takes ``flags``, a dict with None where an option was not given, and options of its own.
    """
    options = _request_options()

    @wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        flags = {name: kwargs.pop(name) for name in options}
        command(*args, flags=flags, **kwargs)

    own = inspect.signature(command, eval_str=True)
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "flags"
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    signature = own.replace(parameters=[*added, *kept])
    with_options.__signature__ = signature  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return with_options
