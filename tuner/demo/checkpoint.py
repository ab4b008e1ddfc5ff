"""The demo as a checkpoint: a tiny model in the original EasyAnimateV5-InP layout.

    python -m tuner.demo.checkpoint DIR

writes one with random weights (the seed is fixed: the same bytes every time). Its shapes are the real model's in
small: BERT and T5 encoders, MMDiT and single-stream blocks, the Magvit autoencoder, DDIM with v-prediction.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from tuner.demo.tokenizers import sentence_pieces, word_pieces
from tuner.models.files import weight_stem
from tuner.models.keys import to_original

SEED = 20241122
_TOKENS = 48
_TOKENS_T5 = 48

_TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 8,
    "attention_head_dim": 32,
    "in_channels": 33,
    "out_channels": 16,
    "patch_size": 2,
    "sample_width": 90,
    "sample_height": 60,
    "num_layers": 5,
    "mmdit_layers": 1,
    "time_embed_dim": 32,
    "text_embed_dim": 64,
    "text_embed_dim_t5": 64,
    "norm_eps": 1e-05,
    "after_norm": False,
    "time_position_encoding_type": "3d_rope",
    "resize_inpaint_mask_directly": True,
    "enable_text_attention_mask": False,
    "add_noise_in_inpaint_model": True,
}
_TRANSFORMER_ORIGINAL_ONLY: dict[str, Any] = {
    "enable_clip_in_inpaint": False,
    "ref_channels": None,
    "clip_channels": None,
}
_VAE: dict[str, Any] = {
    "block_out_channels": [16, 32, 48, 64],
    "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
    "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "scaling_factor": 0.7125,
    "spatial_group_norm": True,
    "act_fn": "silu",
}
_VAE_ORIGINAL_ONLY: dict[str, Any] = {
    "mid_block_use_attention": False,
    "mid_block_attention_type": "spatial",
    "mid_block_num_attention_heads": 8,
    "slice_mag_vae": False,
    "slice_compression_vae": False,
    "cache_compression_vae": False,
    "cache_mag_vae": True,
    "mini_batch_encoder": 4,
    "mini_batch_decoder": 1,
}
_BERT: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": _TOKENS,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
_T5: dict[str, Any] = {
    "model_type": "t5",
    "architectures": ["T5EncoderModel"],
    "d_model": 64,
    "d_ff": 128,
    "d_kv": 16,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-06,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 0,
}
_INDEX = {
    "_class_name": "EasyAnimatePipeline_Multi_Text_Encoder_Inpaint",
    "vae": ["diffusers", "AutoencoderKLMagvit"],
    "text_encoder": ["transformers", "BertModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "tokenizer_2": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
_BERT_TOKENIZER = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "tokenize_chinese_chars": True,
    "model_max_length": _TOKENS,
    **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
}
_T5_TOKENIZER = {
    "tokenizer_class": "T5Tokenizer",
    "model_max_length": _TOKENS_T5,
    "extra_ids": 0,
    "legacy": True,
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


@dataclass
class Modules:
    """The parts of the demo that have weights."""

    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    text_encoder: BertModel
    text_encoder_2: T5EncoderModel


def random_modules(seed: int = SEED) -> Modules:
    """The demo before training; torch's own random state is left alone."""
    bert = {**_BERT, "vocab_size": len(word_pieces())}
    t5 = {**_T5, "vocab_size": sentence_pieces()[0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Modules(
            transformer=EasyAnimateTransformer3DModel(**_TRANSFORMER),
            vae=AutoencoderKLMagvit(**_VAE),
            text_encoder=BertModel(BertConfig.from_dict(bert)),
            text_encoder_2=T5EncoderModel(T5Config.from_dict(t5)),
        )


def write_demo(folder: Path, modules: Modules | None = None) -> None:
    """Write the whole checkpoint under ``folder``; without ``modules``, with random weights.

    Raises:
        OSError: A file cannot be written.
    """
    _write_json(folder / "model_index.json", _INDEX)
    _write_json(folder / "scheduler" / "scheduler_config.json", {"_class_name": "DDIMScheduler", **SCHEDULER})
    write_tokenizers(folder)
    modules = modules or random_modules()
    transformer = {"_class_name": "EasyAnimateTransformer3DModel", **_TRANSFORMER, **_TRANSFORMER_ORIGINAL_ONLY}
    configs: dict[str, dict[str, Any]] = {
        "transformer": transformer,
        "vae": {"_class_name": "AutoencoderKLMagvit", **_VAE, **_VAE_ORIGINAL_ONLY},
        "text_encoder": {**_BERT, "vocab_size": modules.text_encoder.config.vocab_size},
        "text_encoder_2": {**_T5, "vocab_size": modules.text_encoder_2.config.vocab_size},
    }
    for part, config in configs.items():
        _write_json(folder / part / "config.json", config)
        write_weights(folder / part, getattr(modules, part))


def write_tokenizers(folder: Path) -> None:
    """Write both tokenizers under ``folder``."""
    _write_json(folder / "tokenizer" / "tokenizer_config.json", _BERT_TOKENIZER)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(word_pieces()) + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_2" / "tokenizer_config.json", _T5_TOKENIZER)
    (folder / "tokenizer_2" / "spiece.model").write_bytes(sentence_pieces()[1])


def write_weights(folder: Path, module: torch.nn.Module) -> None:
    """Write ``module``'s tensors as bfloat16 under the original's names."""
    tensors = {to_original(name): tensor for name, tensor in module.state_dict().items()}
    if isinstance(module, T5EncoderModel):
        del tensors["encoder.embed_tokens.weight"]  # the same tensor as shared.weight
    stored = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / f"{weight_stem(folder)}.safetensors", metadata={"format": "pt"})


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Write the demo to the folder named on the command line and print what it takes."""
    parser = argparse.ArgumentParser(description="Write the demo checkpoint.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    write_demo(folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        print(f"{file.stat().st_size:>11,} bytes  {file.relative_to(folder)}")
    print(f"{sum(file.stat().st_size for file in files):>11,} bytes  altogether")


if __name__ == "__main__":
    main()
