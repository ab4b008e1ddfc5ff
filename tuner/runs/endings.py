"""How a run that raised an error ended: a status and one line for the user, the traceback for a file."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from tuner.errors import TunerError

ERROR_FILE = "error.log"


def ending_of(error: BaseException) -> tuple[str, str]:
    """The status and the one-line message of a run that ended with ``error``."""
    if isinstance(error, TunerError):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", "cancelled"
    if isinstance(error, MemoryError):
        return "out of memory", "the host ran out of memory"
    if isinstance(error, OSError):
        place = f"cannot use {error.filename}: " if error.filename else ""
        return "failed", f"{place}{error.strerror or error}"
    text = " ".join(str(error).split())[:300]
    return "failed", f"internal error: {type(error).__name__}: {text}"


def keep_traceback(folder: Path, error: BaseException) -> None:
    """Write the traceback of ``error`` into a run's folder, or to the terminal when it cannot be written."""
    text = "".join(traceback.format_exception(error))
    try:
        (folder / ERROR_FILE).write_text(text, encoding="utf-8")
    except OSError:
        print(text, file=sys.stderr)
