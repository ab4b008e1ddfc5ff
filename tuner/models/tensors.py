"""Files of tensors, read one tensor at a time straight into the memory that keeps it.

Nothing is mapped: a mapped file would count as this process's memory a second time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tuner.errors import BadInput
from tuner.models.files import label
from tuner.models.headers import Entry, Header, read_header

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_PIECE_BYTES = 4 * 1024**2
_ENDED = "the file ended early"


class TensorFile(Protocol):
    """A file with named tensors.

    Attributes:
        path: The file.
        entries: What is in it, in the best order to read it.
    """

    path: Path
    entries: Mapping[str, Entry]

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor, in memory of its own."""
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """One tensor's bytes as they lie in the file, a few at a time."""
        ...


class SafetensorsFile:
    """A safetensors file.

    Args:
        path: The file.

    Raises:
        BadInput: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header = read_header(path)
        self.entries: Mapping[str, Entry] = self.header.entries
        self._piece: Tensor | None = None

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in ``dtype``, whatever the file holds.

        Raises:
            BadInput: The disk does not give its bytes.
        """
        entry = self.entries[name]
        stored = TORCH_DTYPES[entry.dtype]
        tensor = torch.empty(entry.shape, dtype=dtype)
        flat = tensor.view(-1)
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(entry.start)
                if stored == dtype:
                    _read_into(stream, flat)
                else:
                    self._read_converted(stream, stored, flat)
        except OSError as error:
            raise self._unreadable(name, error) from None
        return tensor

    def _read_converted(self, stream: Any, stored: torch.dtype, flat: Tensor) -> None:
        if self._piece is None:  # one for all tensors: many of them would leave holes in the heap
            self._piece = torch.empty(_PIECE_BYTES, dtype=torch.uint8)
        piece = self._piece.view(stored)
        for part in flat.split(piece.numel()):
            _read_into(stream, piece[: part.numel()])
            part.copy_(piece[: part.numel()])

    def pieces(self, name: str) -> Iterator[bytes]:
        """One tensor's bytes as they lie in the file, a few at a time.

        Raises:
            BadInput: The disk does not give them.
        """
        entry = self.entries[name]
        left = entry.nbytes
        try:
            with self.path.open("rb", buffering=0) as stream:
                stream.seek(entry.start)
                while left:
                    piece = stream.read(min(left, _PIECE_BYTES))
                    if not piece:
                        raise OSError(_ENDED)
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> BadInput:
        return BadInput(
            f"{label(self.path)}, tensor {name}", str(error), "a whole safetensors file; copy it again"
        )


class PickleFile:
    """A file of ``torch.save``; read with ``weights_only``, so that nothing in it runs.

    Args:
        path: The file.

    Raises:
        BadInput: It holds anything but named tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = _unpickled(path)
        self.entries: Mapping[str, Entry] = {
            name: Entry(_NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), 0)
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in ``dtype``."""
        return self._tensors[name].to(dtype, copy=True).contiguous()

    def pieces(self, name: str) -> Iterator[bytes]:
        """One tensor's bytes."""
        tensor = self._tensors[name].contiguous().view(-1).view(torch.uint8)
        for piece in tensor.split(_PIECE_BYTES):
            yield piece.numpy().tobytes()


def open_tensors(path: Path) -> TensorFile:
    """``path`` by its suffix: safetensors, else a pickle.

    Raises:
        BadInput: It is damaged.
    """
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickleFile(path)


def _read_into(stream: Any, target: Tensor) -> None:
    bytes_of: Any = target.view(torch.uint8).numpy()
    view = memoryview(bytes_of)
    while view:
        count = stream.readinto(view)
        if not count:
            raise OSError(_ENDED)
        view = view[count:]


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"PK"
        with warnings.catch_warnings(action="ignore"):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except Exception as error:  # noqa: BLE001 - an unpickler raises whatever the bytes make of it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(label(path), reason, "tensors saved by torch, nothing else") from None
    if isinstance(held, dict) and isinstance(held.get("state_dict"), dict):
        held = held["state_dict"]
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in held.items()
    ):
        raise BadInput(label(path), type(held).__name__, "a dictionary of tensors")
    return held
