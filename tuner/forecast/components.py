"""A model as the engine takes it, its weights without bytes: from its configs alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights

from tuner.forecast.host import weight
from tuner.models.components import Components
from tuner.models.configs import SCHEDULERS, TEXT_ENCODERS, TOKENS, TRANSFORMERS, VAE
from tuner.models.files import read_json
from tuner.models.load import read_scheduler
from tuner.models.parts import build_transformer, build_vae, text_part, text_parts, transformer_part, vae_part
from tuner.models.registry import ModelInfo
from tuner.models.weights import Part, fill_with

_LONGEST = 2**20


def fake_components(info: ModelInfo, dtype: torch.dtype) -> Components:
    """The model with weights that have shapes and no bytes.

    Args:
        info: Its folder's configs are read if it is installed; no file is opened otherwise.
        dtype: Of the weights.

    Raises:
        BadInput: A config of an installed model is missing or wrong.
    """
    parts = _parts_in(info.path, info) if info.path else _published_parts(info)
    for part in parts:
        fill_with(part, dtype, weight)
    transformer, vae, *texts = (part.module for part in parts)
    tokenizers = [FakeTokenizer(length) for length in _token_lengths(info)]
    modules: list[Any] = [transformer, vae, *texts, *tokenizers]
    return Components(
        name=info.name,
        path=info.path or Path(info.name),
        family=info.family,
        transformer=modules[0],
        vae=modules[1],
        text_encoder=modules[2],
        text_encoder_2=modules[3] if info.family == "v5" else None,
        tokenizer=tokenizers[0],  # type: ignore[arg-type]
        tokenizer_2=tokenizers[1] if info.family == "v5" else None,  # type: ignore[arg-type]
        scheduler_config=_scheduler(info),
        dtype=dtype,
        device=torch.device("meta"),
    )


class FakeTokenizer:
    """Gives as many tokens as the real one pads every prompt to.

    Args:
        model_max_length: That many.
    """

    def __init__(self, model_max_length: int) -> None:
        self.model_max_length = model_max_length

    def __call__(self, text: str, *, max_length: int = 0, **_: object) -> SimpleNamespace:
        ids = torch.zeros(1, max_length, dtype=torch.long)
        mask = torch.zeros_like(ids)  # as if padded: an encoder then applies it
        mask[:, : max_length // 2] = 1
        return SimpleNamespace(input_ids=ids, attention_mask=mask)

    def apply_chat_template(self, conversation: object, **_: object) -> str:
        """The chat template changes no length."""
        return ""


def _parts_in(folder: Path, info: ModelInfo) -> list[Part]:
    return [
        transformer_part(folder / "transformer"),
        vae_part(folder / "vae"),
        *text_parts(folder, info.family),
    ]


def _published_parts(info: ModelInfo) -> list[Part]:
    nowhere = Path(info.name)
    with init_empty_weights(include_buffers=False):
        return [
            Part(nowhere, build_transformer(TRANSFORMERS[info.name])),
            Part(nowhere, build_vae(VAE)),
            *(text_part(nowhere, config) for config in TEXT_ENCODERS[info.family]),
        ]


def _scheduler(info: ModelInfo) -> dict[str, Any]:
    if info.path:
        return read_scheduler(info.path / "scheduler" / "scheduler_config.json")
    return SCHEDULERS[info.family]


def _token_lengths(info: ModelInfo) -> list[int]:
    if not info.path:
        return TOKENS[info.family]
    folders = ["tokenizer", "tokenizer_2"] if info.family == "v5" else ["tokenizer"]
    configs = [read_json(info.path / folder / "tokenizer_config.json") for folder in folders]
    return [int(config.get("model_max_length", _LONGEST)) for config in configs]
