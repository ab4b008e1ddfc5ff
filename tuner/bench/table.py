"""Tables, and figures in words: one text for the terminal, for the file beside a result and for the README."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.settings import GIB

_MIB = 1024**2


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up: the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(3, *(_columns(line[i]) for line in lines)) for i in range(len(header))]
    marks = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "".join(f"| {' | '.join(_padded(line, widths))} |\n" for line in [lines[0], marks, *lines[1:]])


def in_words(bytes_: int) -> str:
    """Bytes for a person: MiB below one GiB, GiB from there."""
    return f"{bytes_ / GIB:.2f} GiB" if bytes_ >= GIB else f"{bytes_ / _MIB:.1f} MiB"


def rate(per_second: float, unit: str) -> str:
    """A rate for a person, with the prefix that fits."""
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= size:
            return f"{per_second / size:.3g} {name}{unit}/s"
    return f"{per_second:.0f} {unit}/s"


def copies_in_words(count: int, bytes_: int) -> str:
    """Some copies for a person."""
    return f"{count} x, {in_words(bytes_)}" if count else "0"


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    gaps = [" " * (width - _columns(cell)) for cell, width in zip(line, widths, strict=True)]
    return [cell + gap if i == 0 else gap + cell for i, (cell, gap) in enumerate(zip(line, gaps, strict=True))]


def _columns(text: str) -> int:
    """Columns that ``text`` takes in a terminal, where a Chinese character takes two."""
    return sum(2 if character >= "\u1100" else 1 for character in text)
