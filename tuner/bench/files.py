"""Where benchmark results go."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput


def check_place(out: Path | None) -> None:
    """Make sure that a result can be written to ``out``, before hours are spent on measuring it.

    Raises:
        BadInput: Its folder cannot be made or written.
    """
    if out is None:
        return
    if out.suffix == ".md":
        raise BadInput("--out", out, "a .json file; the table goes into an .md file beside it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("--out", out, f"a file that can be written ({error.strerror})") from None
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise BadInput("--out", out, "a file that can be written")


def write_result(out: Path, result: Mapping[str, Any], text: str = "") -> None:
    """Write ``result`` to ``out`` as JSON, and ``text`` beside it as Markdown.

    Raises:
        BadInput: One of them cannot be written.
    """
    try:
        _replace(out, json.dumps(result, indent=2) + "\n")
        if text:
            _replace(out.with_suffix(".md"), text)
    except OSError as error:
        raise BadInput("--out", out, f"a file that can be written ({error.strerror})") from None


def _replace(file: Path, text: str) -> None:
    """Write ``text``, so that a program that is killed meanwhile leaves what was there before."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(file)
