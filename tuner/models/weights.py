"""Fill a module with the tensors of a safetensors folder, each read once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tuner.errors import BadInput

_Source = tuple[Path, str, Any]  # file, name in it, reader


def label(path: Path) -> str:
    """``path`` as messages name it: model folder, part, file."""
    return "/".join(path.parts[-3:])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        BadInput: The file is missing or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(label(path), "missing file", "a complete checkpoint folder; copy this file again") from None
    except (OSError, ValueError) as error:
        raise BadInput(label(path), str(error), "a JSON file") from None
    if not isinstance(values, dict):
        raise BadInput(label(path), values, "a JSON object")
    return values


def weight_stem(folder: Path) -> str:
    """Name of the weight files of one part of a checkpoint, without suffix: transformers' or diffusers'."""
    return "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part of a checkpoint, single or sharded.

    Raises:
        BadInput: There are none, or one that the index names is missing.
    """
    files = [folder / f"{weight_stem(folder)}.safetensors"]
    index = folder / f"{weight_stem(folder)}.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BadInput(label(index), "no weight_map", "the index of a sharded safetensors checkpoint")
        files = [folder / Path(str(name)).name for name in sorted(set(shards.values()))]
    for file in files:
        if not file.is_file():
            raise BadInput(label(file), "missing file", "a complete checkpoint folder; copy this file again")
    return files


def fill(
    module: torch.nn.Module,
    folder: Path,
    dtype: torch.dtype,
    *,
    rename: Callable[[str], str] = str,
    tied: Mapping[str, str] | None = None,
    keep_float32: str = "",
) -> None:
    """Put the tensors of ``folder`` into ``module`` (whose parameters may be on the meta device).

    Every name and shape is checked against the file headers before the first byte of a tensor is read.

    Args:
        module: What to fill; ends up in eval mode, without gradients.
        folder: Part of a checkpoint, such as ``transformer/``.
        dtype: Of the weights afterwards, whatever the file holds.
        rename: From a name in the file to a name in the module.
        tied: Module names that repeat another tensor; optional in the file.
        keep_float32: Parameters under a submodule of this name stay float32.

    Raises:
        BadInput: A file is missing or damaged, or a tensor is missing, unexpected or of another shape.
    """
    tied = tied or {}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if name not in tied}
    ignored = {*tied, *(name for name, _ in module.named_buffers())} - wanted.keys()
    files = weight_files(folder)
    with ExitStack() as stack:
        sources: dict[str, _Source] = {}
        for file in files:
            reader = _opened(stack, file)
            for key in reader.keys():  # noqa: SIM118  # a reader is no mapping
                name = rename(key)
                if name in sources:
                    raise BadInput(label(file), f"tensor {key} once more", "each tensor once")
                if name not in ignored:
                    sources[name] = (file, key, reader)
        _check(wanted, sources, files)
        tensors = {}
        for name, (file, key, reader) in sources.items():
            kept = keep_float32 and keep_float32 in name.split(".")
            tensors[name] = _read(reader, file, key, torch.float32 if kept else dtype)
    for repeat, name in tied.items():
        tensors[repeat] = tensors[name]
    module.load_state_dict(tensors, assign=True)
    module.requires_grad_(False).eval()


def _opened(stack: ExitStack, file: Path) -> Any:
    try:
        return stack.enter_context(safe_open(file, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise BadInput(label(file), str(error), "a whole safetensors file; copy it again") from None


def _check(wanted: dict[str, tuple[int, ...]], sources: dict[str, _Source], files: list[Path]) -> None:
    where = label(files[0]) if len(files) == 1 else label(files[0].parent)
    for name, shape in wanted.items():
        if name not in sources:
            raise BadInput(where, f"no tensor {name}", "every tensor its config.json asks for")
        file, key, reader = sources[name]
        found = tuple(reader.get_slice(key).get_shape())
        if found != shape:
            raise BadInput(label(file), f"{key} {list(found)}", f"{list(shape)}, as its config.json says")
    for name, (file, key, _) in sources.items():
        if name not in wanted:
            raise BadInput(label(file), f"tensor {key}", "only tensors that its config.json asks for")


def _read(reader: Any, file: Path, key: str, dtype: torch.dtype) -> torch.Tensor:
    try:
        # A copy even in the same dtype: the reader's tensor is a window on the mapped file.
        return reader.get_tensor(key).to(dtype, copy=True)
    except (SafetensorError, OSError) as error:
        raise BadInput(label(file), f"{key}: {error}", "a whole safetensors file; copy it again") from None
