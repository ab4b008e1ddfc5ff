"""The files of a checkpoint folder: which there must be, and which are not opened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.errors import BadInput

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
MODEL_INDEX = "model_index.json"

_WHOLE = "a complete checkpoint folder; copy this file again"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def label(path: Path) -> str:
    """``path`` as messages name it: model folder, part, file."""
    return "/".join(path.parts[-3:])


def missing(path: Path) -> BadInput:
    """What to raise where ``path`` should be."""
    return BadInput(label(path), "missing file", _WHOLE)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        BadInput: The file is missing or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(label(path), str(error), "a JSON file") from None
    if not isinstance(values, dict):
        raise BadInput(label(path), values, "a JSON object")
    return values


def weight_stem(folder: Path) -> str:
    """Name of the weight files of one part of a checkpoint, without suffix: transformers' or diffusers'."""
    return "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"


def weight_files(folder: Path, allow_pickle: bool = False) -> list[Path]:
    """The weight files of one part of a checkpoint: single or sharded, with an index or without.

    Args:
        folder: Such as ``transformer/``.
        allow_pickle: Also take ``.bin`` files, where there are no safetensors.

    Raises:
        BadInput: There are none, one that the index or a shard's number speaks of is missing, or all are pickles.
    """
    stem = weight_stem(folder)
    found = _files(folder, f"{stem}.safetensors", "*.safetensors")
    if found:
        return found
    pickles = _files(folder, "pytorch_model.bin" if stem == "model" else f"{stem}.bin", "*.bin")
    if not pickles:
        raise missing(folder / f"{stem}.safetensors")
    if not allow_pickle:
        raise BadInput(
            label(pickles[0]),
            "a pickle file, which can run programs",
            "safetensors files; if you trust it: tuner models convert --allow-pickle SRC DST",
        )
    return pickles


def check_links(root: Path) -> None:
    """Refuse links that lead out of the checkpoint in ``root``.

    In the Hugging Face cache a snapshot's files are links to blobs, which lie beside it or in a store that all
    models share; those are fine.

    Raises:
        BadInput: A file or folder of a part is such a link, or one that leads nowhere.
    """
    root = root.resolve()
    inside = [root]
    if is_snapshot(root):
        repository = root.parent.parent
        inside += [repository / "blobs", repository.parent / "blobs"]
    for path in _all_files(root):
        if not path.is_symlink():
            continue
        target = path.resolve()
        if not any(target.is_relative_to(place) for place in inside):
            raise BadInput(label(path), f"a link to {target}", "files that lie inside the checkpoint folder")
        if not target.exists():
            raise missing(path)


def is_snapshot(root: Path) -> bool:
    """Whether ``root`` lies where the Hugging Face cache keeps a model's files."""
    return root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--")


def _all_files(root: Path) -> Iterator[Path]:
    yield root / MODEL_INDEX
    for part in PARTS:
        yield root / part
        if not (root / part).is_symlink():
            yield from (root / part).rglob("*")


def _files(folder: Path, name: str, pattern: str) -> list[Path]:
    """The files that an index names, else the one called ``name``, else every one of that kind."""
    index = folder / f"{name}.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BadInput(label(index), "no weight_map", "the index of a sharded checkpoint")
        files = [folder / Path(str(shard)).name for shard in sorted({str(shard) for shard in shards.values()})]
    elif (folder / name).is_file():
        return [folder / name]
    else:
        files = _with_all_shards(sorted(folder.glob(pattern)))
    for file in files:
        if not file.is_file():
            raise missing(file)
    return files


def _with_all_shards(files: list[Path]) -> list[Path]:
    """``files``, and those that the numbers in their names say there must be."""
    wanted = set(files)
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            count = int(shard[3])
            wanted |= {
                file.with_stem(f"{shard[1]}-{number:05}-of-{count:05}") for number in range(1, min(count, 999) + 1)
            }
    return sorted(wanted)
