"""Training curves: one JSON object a line, shown as they grow."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tuner.errors import TunerError


class Curve:
    """Points of a training curve, one JSON object a line.

    Args:
        file: Where.
        done: Steps already done; points behind them, of a run that was interrupted, are dropped.

    Raises:
        TunerError: It cannot be written.
    """

    def __init__(self, file: Path, done: int) -> None:
        self._file = file
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if done and file.is_file() else []
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_suffix(".new")
            beside.write_text("".join(f"{line}\n" for line in lines if _step(line) <= done), encoding="utf-8")
            beside.replace(file)
        except OSError as error:
            raise TunerError(f"{file.name}: could not be written ({error})") from None

    def add(self, point: dict[str, float]) -> None:
        """Append a point and show it.

        Raises:
            TunerError: It cannot be written.
        """
        line = json.dumps(point)
        print(f"{self._file.stem}  {line}", flush=True)
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")
        except OSError as error:
            raise TunerError(f"{self._file.name}: could not be written ({error})") from None


def _step(line: str) -> float:
    """Which step a line is of; a line that a full disk cut off is of none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
