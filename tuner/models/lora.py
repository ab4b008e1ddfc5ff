"""Low-rank weights for the transformer, added to its own while it loads.

A file holds pairs of thin matrices; ``up @ down``, scaled by alpha over rank, is what is added to a layer's
weight (Hu et al. 2021). EasyAnimate writes kohya's names (``lora_unet__`` and the layer's path with underscores),
peft and diffusers theirs (``transformer.<path>.lora_A.weight``). A path may be the original's or diffusers'.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tuner.errors import BadInput
from tuner.models.files import label
from tuner.models.keys import to_original
from tuner.models.tensors import SafetensorsFile

_ROLES = {
    **dict.fromkeys(
        (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight"), "down"
    ),
    **dict.fromkeys((".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight"), "up"),
    ".alpha": "alpha",
}
_KOHYA = ("lora_unet__", "lora_unet_")
_PEFT = ("base_model.model.transformer.", "base_model.model.", "transformer.", "diffusion_model.", "")
_UNKNOWN = "lora_unet__<layer>.lora_down.weight or transformer.<layer>.lora_A.weight, for layers this model has"


@dataclass(frozen=True)
class Lora:
    """A file of low-rank weights.

    Attributes:
        file: The file.
        weight: How much of it is added; 1 is what it was trained for, 0 nothing.
        alpha: The numerator of every pair's scale where the pair names none; None takes its rank.
    """

    file: SafetensorsFile
    weight: float
    alpha: float | None

    @property
    def path(self) -> Path:
        return self.file.path


@dataclass(frozen=True)
class _Pair:
    """One layer's share of a file, by the names of its tensors."""

    lora: Lora
    down: str
    up: str
    alpha: str | None

    def added(self, shape: torch.Size) -> Tensor:
        """What this adds to a weight of ``shape``, in float32."""
        down, up = (self.lora.file.read(key, torch.float32).flatten(1) for key in (self.down, self.up))
        alpha = self.lora.alpha
        if self.alpha is not None:
            alpha = self.lora.file.read(self.alpha, torch.float32).item()
        rank = down.shape[0]
        scale = self.lora.weight * (1.0 if alpha is None else alpha / rank)
        return (up @ down).mul_(scale).reshape(shape)


MergePlan = dict[str, list[_Pair]]


def checked_loras(loras: Sequence[tuple[str | Path, float]]) -> list[Lora]:
    """The files and weights a person gave, opened but not read.

    Raises:
        BadInput: A file is missing or no safetensors file, or a weight is no finite number.
    """
    found = []
    for name, weight in loras:
        path = Path(name).expanduser()
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
            raise BadInput(f"lora {path.name}", weight, "a finite number as its weight")
        if path.suffix != ".safetensors" or not path.is_file():
            raise BadInput("lora", path, "an existing .safetensors file")
        file = SafetensorsFile(path.resolve())
        found.append(Lora(file, float(weight), _alpha_of(file)))
    return found


def planned_merge(transformer: nn.Module, loras: Sequence[Lora]) -> MergePlan:
    """Which layers the files add to; every name and shape is checked, so that merging cannot stop half way.

    Args:
        transformer: Its weights may be on the meta device still.
        loras: From :func:`checked_loras`.

    Raises:
        BadInput: A tensor of a file has no place here; the message names the first.
    """
    layers = {
        name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    plan: MergePlan = {}
    for lora in sorted(loras, key=lambda lora: (lora.path, lora.weight)):
        for name, pair in _pairs(lora, layers):
            plan.setdefault(name, []).append(pair)
    return plan


@torch.no_grad()
def merge_loras(transformer: nn.Module, plan: MergePlan) -> None:
    """Add what ``plan`` says to the transformer's weights.

    The sum is taken in float32 and rounded once; the order of the files does not matter.
    """
    for name, pairs in plan.items():
        weight: Any = transformer.get_submodule(name).weight
        total = weight.float()
        for pair in pairs:
            total = total + pair.added(weight.shape)
        weight.copy_(total)


def _pairs(lora: Lora, layers: dict[str, Any]) -> Iterator[tuple[str, _Pair]]:
    """Each layer that a file speaks of, with its pair; every name and shape is checked first."""
    names = _names(layers)
    keys: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key in lora.file.entries:
        layer, role = _place(key, names)
        if layer is None or role is None or role in keys[layer]:
            raise BadInput(f"{label(lora.path)}, tensor {key}", "a name without a place here", _UNKNOWN)
        keys[layer][role] = key
    for layer, roles in keys.items():
        _check_shapes(lora, layers[layer].weight.shape, roles)
    for layer, roles in keys.items():
        yield layer, _Pair(lora, roles["down"], roles["up"], roles.get("alpha"))


def _names(layers: dict[str, Any]) -> dict[str, str]:
    """Every way to call a layer: the original's path or diffusers', with dots or underscores."""
    names: dict[str, str] = {}
    for layer in layers:
        for path in (layer, to_original(f"{layer}.weight").removesuffix(".weight")):
            names[path] = names[path.replace(".", "_")] = layer
    return names


def _place(key: str, names: dict[str, str]) -> tuple[str | None, str | None]:
    """The layer and the role of a file's tensor."""
    suffix = next((suffix for suffix in _ROLES if key.endswith(suffix)), None)
    if suffix is None:
        return None, None
    path = key.removesuffix(suffix)
    for prefix in (*_KOHYA, *_PEFT):
        if path.startswith(prefix) and path.removeprefix(prefix) in names:
            return names[path.removeprefix(prefix)], _ROLES[suffix]
    return None, _ROLES[suffix]


def _check_shapes(lora: Lora, weight: torch.Size, roles: dict[str, str]) -> None:
    first = next(iter(roles.values()))
    for role in ("down", "up"):
        if role not in roles:
            raise BadInput(f"{label(lora.path)}, tensor {first}", f"no {role} beside it", "pairs of down and up")
    entries = {role: lora.file.entries[key] for role, key in roles.items()}
    rank = entries["down"].shape[0] if entries["down"].shape else 0
    wanted = {"down": (rank, math.prod(weight[1:])), "up": (weight[0], rank), "alpha": (1,)}
    for role, entry in entries.items():
        flat = (*entry.shape[:1], math.prod(entry.shape[1:])) if role != "alpha" else (entry.numel,)
        if flat != wanted[role] or rank == 0:
            raise BadInput(
                f"{label(lora.path)}, tensor {roles[role]}",
                f"shape {list(entry.shape)}",
                f"{list(wanted[role])}, which this model's layer takes",
            )


def _alpha_of(file: SafetensorsFile) -> float | None:
    """The alpha that peft notes beside the tensors, if it does."""
    try:
        noted = json.loads(file.header.metadata.get("lora_adapter_metadata", "{}"))
        values = {str(key).removeprefix("transformer."): value for key, value in noted.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise BadInput(f"{label(file.path)}, lora_adapter_metadata", str(error), "a JSON object") from None
    for key in ("use_dora", "use_rslora", "alpha_pattern"):
        if values.get(key):
            raise BadInput(
                f"{label(file.path)}, {key}", values[key], "plain LoRA: alpha over rank, the same everywhere"
            )
    alpha = values.get("lora_alpha")
    if alpha is not None and (not isinstance(alpha, int | float) or not math.isfinite(alpha)):
        raise BadInput(f"{label(file.path)}, lora_alpha", alpha, "a finite number")
    return alpha
