"""Checkpoint configs before anything is built from them: a wrong value is refused by its name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import BadInput
from tuner.models.files import label

Rule = tuple[Callable[[Any], bool], str]


def whole(low: int, high: int, multiple_of: int = 1) -> Rule:
    """A rule: a whole number of that range."""

    def holds(value: Any) -> bool:
        return type(value) is int and low <= value <= high and value % multiple_of == 0

    multiple = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return holds, f"a whole number from {low} to {high}{multiple}"


def optional(rule: Rule) -> Rule:
    """The rule, or null."""
    holds, allowed = rule
    return (lambda value: value is None or holds(value)), f"{allowed}, or null"


POSITIVE: Rule = (
    lambda value: type(value) in (int, float) and math.isfinite(value) and value > 0,
    "a number above 0",
)
FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
_WIDTH = whole(1, 2**16)
_LAYERS = whole(1, 512)

TRANSFORMER: dict[str, Rule] = {
    "num_attention_heads": whole(1, 1024),
    "attention_head_dim": whole(16, 1024, multiple_of=16),
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "patch_size": whole(1, 16),
    "num_layers": _LAYERS,
    "mmdit_layers": whole(0, 512),
    "time_embed_dim": _WIDTH,
    "text_embed_dim": _WIDTH,
    "text_embed_dim_t5": optional(_WIDTH),
    "norm_eps": POSITIVE,
    **dict.fromkeys(
        (
            "add_norm_text_encoder",
            "norm_elementwise_affine",
            "flip_sin_to_cos",
            "after_norm",
            "resize_inpaint_mask_directly",
            "enable_text_attention_mask",
            "add_noise_in_inpaint_model",
        ),
        FLAG,
    ),
}
VAE: dict[str, Rule] = {
    "in_channels": whole(3, 3),
    "out_channels": whole(3, 3),
    "latent_channels": whole(1, 1024),
    "layers_per_block": whole(1, 16),
    "norm_num_groups": whole(1, 4096),
    "scaling_factor": POSITIVE,
    "spatial_group_norm": FLAG,
}
TEXT_ENCODER: dict[str, Rule] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "d_model", "d_kv"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "d_ff"), whole(1, 2**20)),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads"), whole(1, 1024)),
    "vocab_size": whole(1, 2**24),
    "max_position_embeddings": whole(1, 2**24),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"), POSITIVE),
}
SCHEDULER: dict[str, Rule] = {
    "num_train_timesteps": whole(1, 100_000),
    **dict.fromkeys(("beta_start", "beta_end", "shift", "base_shift", "max_shift"), POSITIVE),
    **dict.fromkeys(
        ("rescale_betas_zero_snr", "set_alpha_to_one", "clip_sample", "use_dynamic_shifting", "thresholding"), FLAG
    ),
    "steps_offset": whole(0, 1000),
}


def check(file: Path, config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise :class:`BadInput` for the first value that a rule does not allow; keys without a rule pass."""
    for key, (holds, allowed) in rules.items():
        if key in config and not holds(config[key]):
            raise BadInput(f"{label(file)}, {key}", config[key], allowed)


def arguments(config: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Those values of ``config`` that ``kind`` is built with; the original's own keys are left out."""
    return {key: value for key, value in config.items() if key in inspect.signature(kind.__init__).parameters}
