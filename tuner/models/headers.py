"""Safetensors files as they lie on the disk: what they hold and where, without reading a tensor.

The format: eight bytes that say how long the header is, the header (JSON: name -> dtype, shape, position), then
the tensors one after the other, without gaps, to the end of the file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tuner.errors import BadInput
from tuner.models.files import label

DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}

_LONGEST_HEADER = 100_000_000
_HOLE_BYTES = 1024**2
_WHOLE = "a whole safetensors file; copy it again"
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        dtype: As safetensors calls it, such as ``BF16``.
        shape: Its sizes.
        start: Its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPE_BYTES[self.dtype]

    @property
    def stop(self) -> int:
        return self.start + self.nbytes


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        file: The file.
        entries: Its tensors, in the order they lie in.
        metadata: Free text beside them.
    """

    file: Path
    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """The header of a safetensors file, checked against itself and the file's length.

    Raises:
        BadInput: The file cannot be read, is none of this kind, or is shorter or longer than its header says.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            values, data = _parse(file, stream, size)
    except OSError as error:
        raise BadInput(label(file), error.strerror or str(error), "a file that can be read") from None
    metadata = values.pop(_METADATA, None) or {}
    entries = {name: _entry(file, name, value, data) for name, value in values.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_positions(file, entries, data, size)
    return Header(file, entries, metadata)


def unwritten(header: Header) -> Iterator[str]:
    """Names of tensors that were never written: where a sparse file has nothing on the disk.

    A hole counts that is a mebibyte or takes most of a matrix; some disks make holes of a few zeros by themselves.
    """
    with header.file.open("rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        holes = list(_holes(stream.fileno(), end))
    for name, entry in header.entries.items():
        for start, stop in holes:
            overlap = min(stop, entry.stop) - max(start, entry.start)
            most = len(entry.shape) > 1 and 2 * overlap > entry.nbytes
            if overlap > 0 and (most or stop - start >= _HOLE_BYTES):
                yield name
                break


def _holes(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < end:
        start = os.lseek(descriptor, position, os.SEEK_HOLE)
        if start >= end:
            return
        try:
            position = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # nothing but the hole to the end of the file
            position = end
        yield start, position


def _parse(file: Path, stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header's values, and where the tensors begin."""
    start = stream.read(8)
    if len(start) < 8:
        raise BadInput(label(file), f"{size} bytes", _WHOLE)
    (length,) = struct.unpack("<Q", start)
    if length > min(_LONGEST_HEADER, size - 8):
        raise BadInput(label(file), f"a header of {length:,} bytes in a file of {size:,}", _WHOLE)
    try:
        values = json.loads(stream.read(length).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BadInput(label(file), f"corrupt header: {error}", _WHOLE) from None
    metadata = values.get(_METADATA, {}) if isinstance(values, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInput(label(file), "corrupt header: no JSON object of tensors", _WHOLE)
    return values, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is there more than once")
    return values


def _entry(file: Path, name: str, value: Any, data: int) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]} if all(
            type(length) is int and length >= 0 for length in shape
        ):
            if dtype not in DTYPE_BYTES:
                raise BadInput(f"{label(file)}, tensor {name}", dtype, f"one of {', '.join(DTYPE_BYTES)}")
            entry = Entry(dtype, tuple(shape), data + start)
            if start >= 0 and entry.stop == data + stop:
                return entry
    raise BadInput(
        f"{label(file)}, tensor {name}", value, f"a dtype, a shape and as many bytes as they take; {_WHOLE}"
    )


def _check_positions(file: Path, entries: Mapping[str, Entry], data: int, size: int) -> None:
    end = data
    for name, entry in entries.items():
        where = f"{label(file)}, tensor {name}"
        if entry.start != end:
            raise BadInput(where, f"begins at byte {entry.start:,}", f"byte {end:,}, where the one before it ends")
        end = entry.stop
        if end > size:
            raise BadInput(where, f"the file ends at byte {size:,}, it at {end:,}", _WHOLE)
    if end != size:
        raise BadInput(label(file), f"{size:,} bytes, its tensors take {end:,}", _WHOLE)
