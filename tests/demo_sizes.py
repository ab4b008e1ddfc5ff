"""Sizes of the shipped demo, read from its files: what is tested holds whichever demo is trained next."""

from __future__ import annotations

import json
from typing import Any

from tuner.models.registry import find_model

_FOLDER = find_model("demo").folder()


def config(part: str) -> dict[str, Any]:
    """A part's ``config.json``."""
    return json.loads((_FOLDER / part / "config.json").read_text(encoding="utf-8"))


WIDTH: int = config("transformer")["num_attention_heads"] * config("transformer")["attention_head_dim"]
BLOCKS: int = config("transformer")["num_layers"]
TEXT_WIDTH: int = config("transformer")["text_embed_dim"]
TOKENS: int = config("text_encoder")["max_position_embeddings"]
