"""Load a checkpoint: EasyAnimateV5-InP or V5.1-InP, with the original's tensor names or diffusers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import BertTokenizer

from tuner.errors import BadInput
from tuner.models import config_checks
from tuner.models.components import Components
from tuner.models.config_checks import check
from tuner.models.download import available
from tuner.models.family import Family, family_of
from tuner.models.files import MODEL_INDEX, check_links, label, missing, read_json
from tuner.models.fit import check_fit
from tuner.models.lora import checked_loras, merge_loras, planned_merge
from tuner.models.parts import text_parts, transformer_part, vae_part
from tuner.models.qwen import load_qwen_tokenizer
from tuner.models.registry import find_model
from tuner.models.t5_tokenizer import load_t5_tokenizer
from tuner.models.weights import fill
from tuner.settings import Settings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

T = TypeVar("T")


def load_model(
    name_or_path: str | Path,
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    *,
    loras: Sequence[tuple[str | Path, float]] = (),
    allow_pickle: bool = False,
) -> Components:
    """Read a model into host memory, each tensor once and straight to where it stays.

    Args:
        name_or_path: A name from :func:`tuner.models.registry.list_models`, or a checkpoint folder. A published
            model that is not on this machine is downloaded.
        settings: Its ``precision`` decides the dtype of the weights.
        device: Where compute will run; None takes the CUDA card if there is one.
        loras: Files of low-rank weights for the transformer and how much of each is added.
        allow_pickle: Also read ``.bin`` files (of tensors only: nothing in them is run).

    Raises:
        BadInput: No such model, its folder is incomplete, damaged or of another architecture, or a LoRA does not
            fit it.
        TunerError: A download broke off.
    """
    info = find_model(name_or_path)
    where = _device(device)
    dtype = _dtype((settings or Settings()).precision, where)
    added = checked_loras(loras)
    path = available(info)
    check_links(path)
    read_json(path / MODEL_INDEX)
    family = family_of(path)
    transformer, vae, texts = (
        transformer_part(path / "transformer"),
        vae_part(path / "vae"),
        text_parts(path, family),
    )
    check_fit(transformer, vae, texts)
    additions = planned_merge(transformer.module, added)
    scheduler = read_scheduler(path / "scheduler" / "scheduler_config.json")
    tokenizers = load_tokenizers(path, family)
    for part in (transformer, vae, *texts):
        fill(part, dtype, allow_pickle)
    merge_loras(transformer.module, additions)
    modules: list[Any] = [text.module for text in texts]
    return Components(
        name=info.name,
        path=path,
        family=family,
        transformer=transformer.module,  # type: ignore[arg-type]
        vae=vae.module,  # type: ignore[arg-type]
        text_encoder=modules[0],
        text_encoder_2=modules[1] if family == "v5" else None,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1] if family == "v5" else None,
        scheduler_config=scheduler,
        dtype=dtype,
        device=where,
        loras=tuple((lora.path, lora.weight) for lora in added),
    )


def load_tokenizers(path: Path, family: Family) -> list[Any]:
    """The tokenizers of a checkpoint, one per text encoder.

    Raises:
        BadInput: A file is missing or damaged.
    """
    if family == "v5":
        return [
            _load_tokenizer(_bert_tokenizer, path / "tokenizer", "vocab.txt", "tokenizer.json"),
            _load_tokenizer(load_t5_tokenizer, path / "tokenizer_2", "spiece.model"),
        ]
    return [_load_tokenizer(load_qwen_tokenizer, path / "tokenizer", "tokenizer.json", "vocab.json")]


def read_scheduler(file: Path) -> dict[str, Any]:
    """The scheduler's config, as it is.

    Raises:
        BadInput: It is missing, or a value in it cannot be.
    """
    config = read_json(file)
    check(file, config, config_checks.SCHEDULER)
    return config


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError:
        raise BadInput("device", device, "cpu, cuda, or cuda:N") from None


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return _DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _load_tokenizer(read: Callable[[Path], T], folder: Path, *vocabularies: str) -> T:
    """What ``read`` makes of ``folder``, which has one of the ``vocabularies``."""
    found = next((folder / name for name in vocabularies if (folder / name).is_file()), None)
    if found is None:
        raise missing(folder / vocabularies[0])
    read_json(folder / "tokenizer_config.json")
    try:
        return read(folder)
    except Exception as error:  # noqa: BLE001 - the tokenizers library raises bare Exceptions
        raise BadInput(label(found), str(error), "a tokenizer's files; copy them again") from None


def _bert_tokenizer(folder: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(folder, local_files_only=True)
