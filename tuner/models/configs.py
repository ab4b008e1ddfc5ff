"""The published models' dimensions, for whoever needs the shapes without the weights."""

from __future__ import annotations

from typing import Any

_INP: dict[str, Any] = {
    "num_attention_heads": 48,
    "attention_head_dim": 64,
    "in_channels": 33,
    "out_channels": 16,
    "patch_size": 2,
    "sample_width": 90,
    "sample_height": 60,
    "activation_fn": "gelu-approximate",
    "timestep_activation_fn": "silu",
    "time_embed_dim": 512,
    "norm_eps": 1e-05,
    "norm_elementwise_affine": True,
    "time_position_encoding_type": "3d_rope",
    "after_norm": False,
    "resize_inpaint_mask_directly": True,
    "add_noise_in_inpaint_model": True,
}
_SIZES = {"7b": {"num_layers": 36, "mmdit_layers": 18}, "12b": {"num_layers": 48, "mmdit_layers": 48}}
_TEXT: dict[str, dict[str, Any]] = {
    "v5": {"text_embed_dim": 1024, "text_embed_dim_t5": 2048, "enable_text_attention_mask": False},
    "v5.1": {
        "text_embed_dim": 3584,
        "text_embed_dim_t5": None,
        "add_norm_text_encoder": True,
        "enable_text_attention_mask": True,
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    f"easyanimate-{family}-{size}-inp": {**_INP, **_SIZES[size], **_TEXT[family]}
    for family in _TEXT
    for size in _SIZES
}

VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
    "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.7125,
    "spatial_group_norm": True,
    "act_fn": "silu",
}
