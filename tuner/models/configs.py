"""The published models' dimensions, for whoever needs the shapes without the weights."""

from __future__ import annotations

from typing import Any

from tuner.models.family import Family

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

_BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "vocab_size": 47_020,
}
_T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 2048,
    "d_ff": 5120,
    "d_kv": 64,
    "num_heads": 32,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "vocab_size": 250_112,
}
_QWEN: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152_064,
}

TEXT_ENCODERS: dict[Family, list[dict[str, Any]]] = {"v5": [_BERT, _T5], "v5.1": [_QWEN]}
TOKENS: dict[Family, list[int]] = {"v5": [77, 256], "v5.1": [256]}
"""What each text encoder's tokenizer pads a prompt to."""

SCHEDULERS: dict[Family, dict[str, Any]] = {
    "v5": {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "v5.1": {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
    },
}
