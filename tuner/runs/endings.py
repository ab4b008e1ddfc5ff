"""How a run that raised an error ended, in a status and one line."""

from __future__ import annotations

from tuner.errors import TunerError


def ending_of(error: BaseException) -> tuple[str, str]:
    """The status and the one-line message of a run that ended with ``error``."""
    if isinstance(error, TunerError):
        return error.status, str(error)
    if isinstance(error, MemoryError):
        return "out of memory", "the host ran out of memory"
    if isinstance(error, OSError):
        place = f"cannot use {error.filename}: " if error.filename else ""
        return "failed", f"{place}{error.strerror or error}"
    text = " ".join(str(error).split())[:300]
    return "failed", f"internal error: {type(error).__name__}: {text}"
