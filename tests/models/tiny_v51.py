"""A tiny EasyAnimateV5.1-InP checkpoint in the original's layout, random weights, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tuner.models.keys import to_original

HIDDEN = 48
LAYERS = 3
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 33,
    "out_channels": 16,
    "patch_size": 2,
    "sample_width": 90,
    "sample_height": 60,
    "num_layers": 3,
    "mmdit_layers": 3,
    "time_embed_dim": 32,
    "add_norm_text_encoder": True,
    "text_embed_dim": HIDDEN,
    "text_embed_dim_t5": None,
    "norm_eps": 1e-05,
    "time_position_encoding_type": "3d_rope",
    "resize_inpaint_mask_directly": True,
    "enable_text_attention_mask": True,
    "add_noise_in_inpaint_model": True,
}
TRANSFORMER_ORIGINAL_ONLY: dict[str, Any] = {
    "add_ref_latent_in_control_model": True,
    "clip_channels": None,
    "enable_clip_in_inpaint": False,
    "ref_channels": None,
    "swa_layers": None,
}
VAE: dict[str, Any] = {
    "block_out_channels": [16, 16, 32, 32],
    "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
    "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "scaling_factor": 0.7125,
    "spatial_group_norm": True,
    "act_fn": "silu",
}
VAE_ORIGINAL_ONLY = {
    "cache_mag_vae": True,
    "slice_mag_vae": False,
    "mini_batch_encoder": 4,
    "mini_batch_decoder": 1,
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
INDEX = {
    "_class_name": "EasyAnimateInpaintPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLMagvit"],
}


def write_tiny_v51(folder: Path, *, mmdit_layers: int = 3, seed: int = 51) -> Path:
    """Write the checkpoint under ``folder``, which is returned.

    Args:
        folder: Made when missing.
        mmdit_layers: How many of the three blocks have a text stream of their own.
        seed: Of the weights.
    """
    transformer_config = {**TRANSFORMER, "mmdit_layers": mmdit_layers}
    vocabulary = [*SPECIAL, *sorted(ByteLevel.alphabet()), "Ġa", "re", "Ġball"]
    qwen_config = _qwen_config(len(vocabulary))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = EasyAnimateTransformer3DModel(**transformer_config)
        vae = AutoencoderKLMagvit(**VAE)
        qwen = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**qwen_config))
    _write_json(folder / "model_index.json", INDEX)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_tokenizer(folder / "tokenizer", vocabulary)
    _write_json(folder / "transformer" / "config.json", {**transformer_config, **TRANSFORMER_ORIGINAL_ONLY})
    _write_json(folder / "vae" / "config.json", {**VAE, **VAE_ORIGINAL_ONLY})
    for part, module in (("transformer", transformer), ("vae", vae)):
        tensors = {to_original(name): tensor.contiguous() for name, tensor in module.state_dict().items()}
        save_file(tensors, folder / part / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    qwen.save_pretrained(folder / "text_encoder", max_shard_size="40KB")
    return folder


def _qwen_config(vocabulary: int) -> dict[str, Any]:
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": HIDDEN,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        "tie_word_embeddings": False,
    }


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    special = {
        str(number): {"content": token, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
        for number, token in enumerate(SPECIAL)
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "model_max_length": 512,
            "pad_token": SPECIAL[0],
            "eos_token": SPECIAL[2],
            "unk_token": None,
            "added_tokens_decoder": special,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(folder / "vocab.json", {token: number for number, token in enumerate(vocabulary)})
    merges = ["#version: 0.2", "Ġ a", "r e"]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
