"""Names of the transformer's tensors: the original's and diffusers'.

The original keeps a block's text stream in a second attention module; diffusers keeps it inside the first as
added projections. Everything else has one name.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tuner.models.weights import Naming

_RENAMED = {
    "to_q": "add_q_proj",
    "to_k": "add_k_proj",
    "to_v": "add_v_proj",
    "to_out.0": "to_add_out",
    "norm_q": "norm_added_q",
    "norm_k": "norm_added_k",
}
_ORIGINAL = {added: own for own, added in _RENAMED.items()}

_TEXT_OF_ORIGINAL = re.compile(r"(transformer_blocks\.\d+)\.attn2\.(.+)\.(weight|bias)")
_TEXT_OF_DIFFUSERS = re.compile(r"(transformer_blocks\.\d+)\.attn1\.(.+)\.(weight|bias)")


def to_diffusers(key: str) -> str:
    """Diffusers' name of the tensor that the original (or already diffusers) calls ``key``."""
    found = _TEXT_OF_ORIGINAL.fullmatch(key)
    if found is None or found[2] not in _RENAMED:
        return key
    return f"{found[1]}.attn1.{_RENAMED[found[2]]}.{found[3]}"


def to_original(key: str) -> str:
    """The original's name of the tensor that diffusers (or already the original) calls ``key``."""
    found = _TEXT_OF_DIFFUSERS.fullmatch(key)
    if found is None or found[2] not in _ORIGINAL:
        return key
    return f"{found[1]}.attn2.{_ORIGINAL[found[2]]}.{found[3]}"


def transformer_naming(keys: Collection[str]) -> Naming:
    """The names in a transformer's files, the original's or diffusers'."""
    original = any(to_diffusers(key) != key for key in keys)
    return Naming(to_diffusers, to_original if original else str)
