"""Every error a user can meet, and the process exit code each one ends with.

A message is one line: the field, the value given, what is allowed, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

_SHOWN_LENGTH = 60


class TunerError(Exception):
    """Base of all errors this project raises on purpose."""

    exit_code = 4
    status = "failed"


class BadInput(TunerError):
    """A value a person gave is not usable.

    Args:
        field: Name of the request field, knob, preset key or file at fault.
        value: What was given; shown shortened.
        allowed: What would have been accepted.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field}: {shown(value)} is not allowed; allowed: {allowed}")

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, object, str]]:
        return BadInput, (self.field, self.value, self.allowed)


class OutOfMemory(TunerError):
    """The device (or the host) ran out of memory during a stage.

    Args:
        message: One line.
        stage: Where, as in :mod:`tuner.meter.events`; empty when that is not known.
        asked_bytes: What was asked for, if the allocator said so.
        free_bytes: What was free then, if known.
        suggestion: The next smaller settings, by knob, that make the same clip; empty when there are none.
    """

    exit_code = 3
    status = "out of memory"

    def __init__(
        self,
        message: str,
        stage: str = "",
        asked_bytes: int | None = None,
        free_bytes: int | None = None,
        suggestion: Mapping[str, int | float | str] | None = None,
    ) -> None:
        self.stage, self.asked_bytes, self.free_bytes = stage, asked_bytes, free_bytes
        self.suggestion = dict(suggestion or {})
        super().__init__(message)

    def __reduce__(self) -> tuple[type[OutOfMemory], tuple[object, ...]]:
        return OutOfMemory, (str(self), self.stage, self.asked_bytes, self.free_bytes, self.suggestion)


class Cancelled(TunerError):
    """The person who started the run stopped it."""

    status = "cancelled"


def shown(value: object) -> str:
    """``value`` as one printable line: short, but a path whole."""
    if isinstance(value, Path):
        return str(value)
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    if len(text) > _SHOWN_LENGTH:
        text = f"{text[:_SHOWN_LENGTH]}... ({len(text)} characters)"
    return repr(text) if isinstance(value, str) else text


_ALLOWED_BY_TYPE = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
}


def from_validation(error: ValidationError, names: list[str]) -> BadInput:
    """The first finding of a pydantic ``error`` as one clear line.

    Args:
        error: What pydantic raised.
        names: Every field name of the model, offered when the key is unknown.
    """
    finding = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in finding["loc"]) or "input"
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        return BadInput(field, finding["input"], f"no such key; one of {', '.join(names)}")
    if kind == "missing":
        return BadInput(field, "nothing", "this key is required")
    if kind == "literal_error":
        return BadInput(field, finding["input"], str(context["expected"]).replace("'", ""))
    if kind in _ALLOWED_BY_TYPE:
        return BadInput(field, finding["input"], _ALLOWED_BY_TYPE[kind])
    return BadInput(field, finding["input"], finding["msg"])
