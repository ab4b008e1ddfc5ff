"""Fill a module with the tensors of a checkpoint part, each read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tuner.errors import BadInput
from tuner.models.files import label, weight_files
from tuner.models.tensors import TensorFile, open_tensors

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class Naming:
    """How the files of one checkpoint call a module's tensors.

    Attributes:
        inward: From a name in the file to the module's; None for a tensor that is known and not needed.
        outward: From the module's name to the file's.
    """

    inward: Callable[[str], str | None] = _same
    outward: Callable[[str], str] = _same


@dataclass(frozen=True)
class Part:
    """One module of a model and the folder that fills it.

    Attributes:
        folder: Such as ``transformer/``.
        module: Its parameters may be on the meta device.
        naming: Told from the names in the files.
        tied: Module names that repeat another tensor; optional in the file.
        keep_float32: Parameters under a submodule of this name stay float32 where float16 is wanted.
    """

    folder: Path
    module: torch.nn.Module
    naming: Callable[[Collection[str]], Naming] = lambda keys: Naming()
    tied: Mapping[str, str] = field(default_factory=dict)
    keep_float32: str = ""


@dataclass(frozen=True)
class Source:
    """A tensor of a file: ``key`` is its name there."""

    file: TensorFile
    key: str


def fill(part: Part, dtype: torch.dtype, allow_pickle: bool = False) -> None:
    """Put a folder's tensors into its module, which ends up in eval mode, without gradients.

    Every name, shape and kind is checked against the file headers before the first byte of a tensor is read.

    Args:
        part: What to fill, and from where.
        dtype: Of the weights afterwards, whatever the file holds.
        allow_pickle: Also read ``.bin`` files.

    Raises:
        BadInput: A file is missing or damaged, or a tensor is missing, unexpected or of another shape.
    """
    sources, findings = match(part, [open_tensors(file) for file in weight_files(part.folder, allow_pickle)])
    if findings:
        raise findings[0]
    tensors = {}
    for name, source in _in_file_order(sources):
        tensors[name] = source.file.read(source.key, _dtype_of(part, name, dtype))
    _assign(part, tensors)


def fill_with(
    part: Part, dtype: torch.dtype, make: Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
) -> None:
    """Leave a module as :func:`fill` does, with tensors from elsewhere.

    Args:
        part: What to fill; its folder is not looked at.
        dtype: Of the weights afterwards.
        make: Gives a tensor of a shape and dtype.
    """
    shapes = wanted_shapes(part)
    _assign(part, {name: make(shape, _dtype_of(part, name, dtype)) for name, shape in shapes.items()})


def _dtype_of(part: Part, name: str, dtype: torch.dtype) -> torch.dtype:
    wide = dtype == torch.float16 and part.keep_float32 and part.keep_float32 in name.split(".")
    return torch.float32 if wide else dtype


def _assign(part: Part, tensors: dict[str, torch.Tensor]) -> None:
    for repeat, name in part.tied.items():
        tensors[repeat] = tensors[name]
    part.module.load_state_dict(tensors, assign=True)
    part.module.requires_grad_(False).eval()
    if part.tied:
        part.module.set_input_embeddings(part.module.get_input_embeddings())  # type: ignore[operator]


def wanted_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a part's files must have, by the module's names."""
    state = part.module.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in part.tied}


def match(part: Part, files: list[TensorFile]) -> tuple[dict[str, Source], list[BadInput]]:
    """What fills each of the module's tensors, and everything that is wrong with it.

    Returns:
        Sources by the module's names, and the findings in the order a reader would want them.
    """
    wanted = wanted_shapes(part)
    ignored = {*part.tied, *(name for name, _ in part.module.named_buffers())} - wanted.keys()
    naming = part.naming([key for file in files for key in file.entries])
    sources: dict[str, Source] = {}
    findings: list[BadInput] = []
    for file in files:
        for key in file.entries:
            name = naming.inward(key)
            if name is None or name in ignored:
                continue
            if name in sources:
                findings.append(_wrong(file.path, key, "is there once more", "each tensor once"))
            sources.setdefault(name, Source(file, key))
    where = files[0].path if len(files) == 1 else part.folder
    findings.extend(
        _wrong(where, naming.outward(name), "missing", "every tensor its config.json asks for")
        for name in wanted
        if name not in sources
    )
    for name in [name for name in sources if name not in wanted]:
        source = sources.pop(name)
        findings.append(
            _wrong(source.file.path, source.key, "unexpected", "only tensors that its config.json asks for")
        )
    for name, source in sources.items():
        findings.extend(_misfits(source, wanted[name]))
    return sources, sorted(findings, key=lambda finding: finding.value != "missing")


def _misfits(source: Source, wanted: tuple[int, ...]) -> Iterator[BadInput]:
    entry = source.file.entries[source.key]
    if entry.shape != wanted:
        allowed = f"{list(wanted)}, as its config.json says"
        yield _wrong(source.file.path, source.key, f"shape {list(entry.shape)}", allowed)
    if entry.dtype not in _FLOATS:
        yield _wrong(source.file.path, source.key, entry.dtype, f"weights in one of {', '.join(_FLOATS)}")


def _wrong(path: Path, key: str, found: str, allowed: str) -> BadInput:
    return BadInput(f"{label(path)}, tensor {key}", found, allowed)


def _in_file_order(sources: Mapping[str, Source]) -> Iterator[tuple[str, Source]]:
    by_file: defaultdict[int, dict[str, tuple[str, Source]]] = defaultdict(dict)
    for name, source in sources.items():
        by_file[id(source.file)][source.key] = (name, source)
    for named in by_file.values():
        file = next(iter(named.values()))[1].file
        yield from (named[key] for key in file.entries if key in named)
