"""Look a checkpoint through without loading it: every tensor's name, shape and kind, and every file's bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tuner.errors import BadInput
from tuner.models.family import Family, family_of
from tuner.models.files import MODEL_INDEX, PARTS, check_links, is_snapshot, label, read_json, weight_files
from tuner.models.fit import check_fit
from tuner.models.headers import unwritten
from tuner.models.load import load_tokenizers, read_scheduler
from tuner.models.parts import text_parts, transformer_part, vae_part
from tuner.models.tensors import SafetensorsFile, TensorFile, open_tensors
from tuner.models.weights import Part, match, wanted_shapes

_PIECE_BYTES = 16 * 1024**2
_SHA256_DIGITS = 64

OnBytes = Callable[[int], object]
T = TypeVar("T")


@dataclass(frozen=True)
class PartReport:
    """One part of a checkpoint that has weights.

    Attributes:
        name: Its folder.
        parameters: Of the module as it is loaded.
        nbytes: Of all its tensors in the files.
        files: How many files these are.
        dtypes: Kinds of tensors in the files.
    """

    name: str
    parameters: int
    nbytes: int
    files: int
    dtypes: tuple[str, ...]


@dataclass
class Report:
    """What a look through a checkpoint found.

    Attributes:
        path: Its folder.
        family: Which EasyAnimate it is; None if that cannot be told.
        parts: Those with weights, as far as they could be looked at.
        problems: Everything that is wrong, the first thing to mend first.
        verified: Files whose bytes are known to be the published ones.
    """

    path: Path
    family: Family | None = None
    parts: list[PartReport] = field(default_factory=list)
    problems: list[BadInput] = field(default_factory=list)
    verified: int = 0

    def look(self, step: Callable[[], T]) -> T | None:
        """What ``step`` gives, or None and one problem more."""
        try:
            return step()
        except BadInput as problem:
            self.problems.append(problem)
            return None


def check_model(
    path: Path, *, allow_pickle: bool = False, digests: bool = True, on_bytes: OnBytes | None = None
) -> Report:
    """Look the checkpoint in ``path`` through; needs no GPU and holds no weights.

    Args:
        path: A checkpoint folder.
        allow_pickle: Also look into ``.bin`` files.
        digests: Also hash every file whose digest the Hugging Face cache knows.
        on_bytes: Told of bytes hashed.
    """
    path = path.resolve()
    report = Report(path)

    try:
        check_links(path)
    except BadInput as problem:
        report.problems.append(problem)
        return report  # what such a link leads to is not looked at
    report.look(lambda: read_json(path / MODEL_INDEX))
    family = report.family = report.look(lambda: family_of(path))
    texts = report.look(lambda: text_parts(path, family)) if family else None
    transformer = report.look(lambda: transformer_part(path / "transformer"))
    vae = report.look(lambda: vae_part(path / "vae"))
    for part in (transformer, vae, *(texts or [])):
        if part:
            report.look(lambda part=part: _look_at(part, report, allow_pickle))
    if transformer and vae and texts:
        report.look(lambda: check_fit(transformer, vae, texts))
    report.look(lambda: read_scheduler(path / "scheduler" / "scheduler_config.json"))
    if family:
        report.look(lambda: load_tokenizers(path, family))
    if digests and not report.problems:
        for file, expected in _known_digests(path):
            report.look(lambda file=file, expected=expected: _verify(file, expected, on_bytes))
            report.verified += 1
    return report


def hashed_bytes(path: Path) -> int:
    """How many bytes :func:`check_model` will hash in ``path``."""
    return sum(file.stat().st_size for file, _ in _known_digests(path.resolve()))


def _look_at(part: Part, report: Report, allow_pickle: bool) -> None:
    files = [open_tensors(file) for file in weight_files(part.folder, allow_pickle)]
    _, findings = match(part, files)
    entries = [entry for file in files for entry in file.entries.values()]
    report.parts.append(
        PartReport(
            name=part.folder.name,
            parameters=sum(math.prod(shape) for shape in wanted_shapes(part).values()),
            nbytes=sum(entry.nbytes for entry in entries),
            files=len(files),
            dtypes=tuple(sorted({entry.dtype for entry in entries})),
        )
    )
    report.problems.extend(findings)
    report.problems.extend(problem for file in files for problem in _unwritten(file))


def _unwritten(file: TensorFile) -> Iterator[BadInput]:
    if isinstance(file, SafetensorsFile):
        for name in unwritten(file.header):
            yield BadInput(
                f"{label(file.path)}, tensor {name}",
                "nothing on the disk (a sparse file)",
                "a whole copy; copy this file again",
            )


def _known_digests(path: Path) -> Iterator[tuple[Path, str]]:
    """Files of a Hugging Face snapshot, whose links lead to blobs that are called by their digest."""
    if not is_snapshot(path):
        return
    for place in (path / MODEL_INDEX, *(path / part for part in PARTS)):
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_symlink() and file.is_file():
                yield file, file.readlink().name


def _verify(file: Path, expected: str, on_bytes: OnBytes | None) -> None:
    """Compare a file's SHA-256, or git's name for a small one, with what it should be."""
    digest = hashlib.sha256()
    if len(expected) != _SHA256_DIGITS:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            if on_bytes:
                on_bytes(len(piece))
    if digest.hexdigest() != expected:
        found = f"digest {digest.hexdigest()[:12]}"
        raise BadInput(label(file), found, f"{expected[:12]}, as published; fetch it again")
