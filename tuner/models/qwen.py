"""EasyAnimateV5.1's text encoder: as much of Qwen2-VL as a prompt's states need.

They are what the last but one layer of the language model gives. The vision tower, the last layer, the norm after
it and the output head are never built and never read: 2.7 of 15.4 GiB.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from tuner.models.weights import Naming

_VISION = re.compile(r"(model\.)?visual\..+")
_LANGUAGE = re.compile(r"(?:model\.language_model\.|model\.)(.+)")
_LAYER = re.compile(r"layers\.(\d+)\..+")


def build_qwen(config: dict[str, Any]) -> Qwen2VLTextModel:
    """The language model without its last layer; the first of its outputs is what V5.1 was trained with.

    Args:
        config: Of the whole Qwen2-VL model, as its ``config.json`` has it.
    """
    text: Any = Qwen2VLConfig.from_dict(config).text_config
    text.num_hidden_layers -= 1
    text.layer_types = text.layer_types[: text.num_hidden_layers]
    model = Qwen2VLTextModel(text)
    model.norm = torch.nn.Identity()  # type: ignore[assignment]  # the state is taken before the norm
    return model


def qwen_naming(layers: int, keys: Collection[str]) -> Naming:
    """Names in Qwen2-VL's files, older ones (``model.layers``) and newer (``model.language_model.layers``).

    Args:
        layers: How many of them are wanted.
        keys: The names in the files.
    """
    prefix = "model.language_model." if any(key.startswith("model.language_model.") for key in keys) else "model."

    def inward(key: str) -> str | None:
        if _VISION.fullmatch(key) or key in ("lm_head.weight", f"{prefix}norm.weight"):
            return None
        found = _LANGUAGE.fullmatch(key)
        name = found[1] if found else key
        layer = _LAYER.fullmatch(name)
        return None if layer and int(layer[1]) == layers else name

    return Naming(inward, lambda name: prefix + name)


def load_qwen_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer in ``folder``, with its chat template.

    Raises:
        ValueError: It has no chat template, or its merges are missing.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "merges.txt").is_file():
        raise ValueError("merges.txt is missing")
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError("no chat_template")
    return tokenizer
