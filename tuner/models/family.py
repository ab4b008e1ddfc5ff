"""Which model lies in a folder, told by what is in it. Knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tuner.errors import BadInput
from tuner.models.files import PARTS, label, read_json, weight_files

Family = Literal["v5", "v5.1"]

_BY_TEXT_ENCODER: dict[str, Family] = {"bert": "v5", "qwen2_vl": "v5.1"}
_WEIGHTS: dict[Family, tuple[str, ...]] = {
    "v5": ("transformer", "vae", "text_encoder", "text_encoder_2"),
    "v5.1": ("transformer", "vae", "text_encoder"),
}


def family_of(folder: Path) -> Family:
    """EasyAnimateV5 or V5.1, by the text encoder that the checkpoint has.

    Raises:
        BadInput: It has neither BERT nor Qwen2-VL.
    """
    file = folder / "text_encoder" / "config.json"
    kind = read_json(file).get("model_type")
    if not isinstance(kind, str) or kind not in _BY_TEXT_ENCODER:
        allowed = "bert (with T5 beside it: EasyAnimateV5) or qwen2_vl (EasyAnimateV5.1)"
        raise BadInput(f"{label(file)}, model_type", kind, allowed)
    return _BY_TEXT_ENCODER[kind]


def weight_parts(family: Family) -> tuple[str, ...]:
    """The folders of that family's checkpoint that hold weights."""
    return _WEIGHTS[family]


def model_parts(family: Family) -> tuple[str, ...]:
    """All folders of that family's checkpoint."""
    return tuple(part for part in PARTS if not part.endswith("_2") or family == "v5")


def is_whole(folder: Path) -> bool:
    """Whether every weight file is there; what is in them is for loading to see."""
    try:
        for part in weight_parts(family_of(folder)):
            weight_files(folder / part, allow_pickle=True)
    except BadInput:
        return False
    return True
