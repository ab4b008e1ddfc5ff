"""Write a checkpoint in diffusers' layout: a few bytes at a time, so that a large model needs little memory."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel

from tuner.errors import BadInput, TunerError
from tuner.models.check import check_model
from tuner.models.config_checks import arguments
from tuner.models.family import Family, family_of, model_parts, weight_parts
from tuner.models.files import MODEL_INDEX, read_json, weight_files, weight_stem
from tuner.models.headers import DTYPE_BYTES, Entry
from tuner.models.keys import to_diffusers
from tuner.models.tensors import TensorFile, open_tensors

SHARD_BYTES = 5 * 10**9

_CLASSES = {"transformer": EasyAnimateTransformer3DModel, "vae": AutoencoderKLMagvit}
_PIPELINE_PARTS: dict[Family, dict[str, list[str]]] = {
    "v5": {
        "text_encoder": ["transformers", "BertModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "BertTokenizer"],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
    },
    "v5.1": {
        "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
    },
}

OnBytes = Callable[[int], object]


@dataclass(frozen=True)
class _Tensor:
    """A tensor on its way: its new name, and where it comes from."""

    name: str
    file: TensorFile
    key: str

    @property
    def entry(self) -> Entry:
        return self.file.entries[self.key]


def convert_model(
    source: Path,
    target: Path,
    *,
    allow_pickle: bool = False,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Write the checkpoint in ``source`` to ``target``: diffusers' names and configs, safetensors in shards.

    V5.1 becomes what diffusers' ``EasyAnimateInpaintPipeline.from_pretrained`` reads. V5 has no pipeline there;
    its modules load one by one, and as a whole with :func:`tuner.load_model`. Tensors keep their dtype.

    Args:
        source: A checkpoint that :func:`tuner.models.check.check_model` finds nothing wrong with.
        target: A folder that does not exist yet.
        allow_pickle: Also read ``.bin`` files.
        shard_bytes: No file is larger, except for a tensor that is.
        on_bytes: Told of tensor bytes written.

    Returns:
        ``target``.

    Raises:
        BadInput: The source is damaged, the target exists, or its disk is too small.
        TunerError: The target could not be written; nothing of it is left.
    """
    source, target = source.resolve(), target.expanduser().absolute()
    if target.exists() or target.is_symlink():
        raise BadInput("DST", target, "a folder that does not exist yet; nothing is overwritten")
    if problems := check_model(source, allow_pickle=allow_pickle, digests=False).problems:
        raise problems[0]
    family = family_of(source)
    tensors = {part: list(_tensors(source / part, allow_pickle)) for part in weight_parts(family)}
    _check_room(target, sum(tensor.entry.nbytes for part in tensors.values() for tensor in part))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".tuner-convert-", dir=target.parent))
        try:
            _write(source, work, family, tensors, shard_bytes, on_bytes or (lambda count: None))
            work.chmod(0o755)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise TunerError(
            f"{target}: cannot be written ({error.strerror or error}); nothing is left there"
        ) from None
    return target


def tensor_bytes(source: Path, allow_pickle: bool = False) -> int:
    """How many bytes :func:`convert_model` will write of tensors.

    Raises:
        BadInput: The source is damaged.
    """
    parts = weight_parts(family_of(source))
    return sum(tensor.entry.nbytes for part in parts for tensor in _tensors(source / part, allow_pickle))


def _tensors(folder: Path, allow_pickle: bool) -> Iterator[_Tensor]:
    for path in weight_files(folder, allow_pickle):
        file = open_tensors(path)
        for key in file.entries:
            yield _Tensor(to_diffusers(key) if folder.name == "transformer" else key, file, key)


def _check_room(target: Path, needed_bytes: int) -> None:
    place = next(folder for folder in target.parents if folder.is_dir())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise BadInput(
            "DST", f"{free_bytes / 1e9:.1f} GB free", f"a disk with room for {needed_bytes / 1e9:.1f} GB"
        )


def _write(
    source: Path,
    target: Path,
    family: Family,
    tensors: dict[str, list[_Tensor]],
    shard_bytes: int,
    on_bytes: OnBytes,
) -> None:
    for part in model_parts(family):
        (target / part).mkdir()
        if part in _CLASSES:
            config = read_json(source / part / "config.json")
            _write_json(target / part / "config.json", _config(config, _CLASSES[part]))
        else:
            _copy_small_files(source / part, target / part)
        if part in tensors:
            _write_part(target / part, tensors[part], shard_bytes, on_bytes)
    _write_json(target / MODEL_INDEX, _model_index(source, family))


def _config(config: dict[str, Any], kind: type) -> dict[str, Any]:
    """``config`` without the original's own keys, but with the one that diffusers' pipelines ask for."""
    kept = {"cache_mag_vae": config.get("cache_mag_vae", True)} if kind is AutoencoderKLMagvit else {}
    return {
        "_class_name": kind.__name__,
        "_diffusers_version": diffusers.__version__,
        **arguments(config, kind),
        **kept,
    }


def _model_index(source: Path, family: Family) -> dict[str, Any]:
    scheduler = read_json(source / "scheduler" / "scheduler_config.json").get("_class_name", "DDIMScheduler")
    pipeline = read_json(source / MODEL_INDEX).get("_class_name")
    return {
        "_class_name": "EasyAnimateInpaintPipeline" if family == "v5.1" else pipeline,
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", scheduler],
        **_PIPELINE_PARTS[family],
        **{part: ["diffusers", kind.__name__] for part, kind in _CLASSES.items()},
    }


def _copy_small_files(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        weights = file.suffix in (".safetensors", ".bin", ".pt", ".pth") or file.name.endswith(".index.json")
        if file.is_file() and not weights:
            shutil.copyfile(file, target / file.name)


def _write_part(folder: Path, tensors: list[_Tensor], shard_bytes: int, on_bytes: OnBytes) -> None:
    shards = _shards(tensors, shard_bytes)
    stem, count = weight_stem(folder), len(shards)
    if count == 1:
        _write_shard(folder / f"{stem}.safetensors", shards[0], on_bytes)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = folder / f"{stem}-{number:05}-of-{count:05}.safetensors"
        _write_shard(file, shard, on_bytes)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), file.name)
    total = sum(tensor.entry.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(tensors: list[_Tensor], shard_bytes: int) -> list[list[_Tensor]]:
    shards: list[list[_Tensor]] = [[]]
    held = 0
    for tensor in tensors:
        if shards[-1] and held + tensor.entry.nbytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(tensor)
        held += tensor.entry.nbytes
    return shards


def _write_shard(file: Path, tensors: list[_Tensor], on_bytes: OnBytes) -> None:
    # Wide elements first: so each tensor begins at a multiple of its element's size, as readers that map expect.
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.entry.dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.entry.nbytes
        entry = tensor.entry
        header[tensor.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            for piece in tensor.file.pieces(tensor.key):
                stream.write(piece)
                on_bytes(len(piece))


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
