"""The modules of a checkpoint, built from its configs on the meta device, and what fills them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from tuner.errors import BadInput
from tuner.models import config_checks
from tuner.models.attention import use_original_attention
from tuner.models.config_checks import arguments, check
from tuner.models.family import Family
from tuner.models.files import label, read_json
from tuner.models.keys import transformer_naming
from tuner.models.qwen import build_qwen, qwen_naming
from tuner.models.rotary import use_original_rotary
from tuner.models.weights import Part

_OTHER_ARCHITECTURE = ("ref_channels", "clip_channels", "swa_layers")
_NEEDED = ("in_channels", "out_channels", "patch_size")
_BAD_CONFIG = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NameError),
    *(RuntimeError, TypeError, ValueError, StrictDataclassError),
)

T = TypeVar("T")


def transformer_part(folder: Path) -> Part:
    """The denoiser, with the original's attention arithmetic.

    Raises:
        BadInput: Its config is missing, wrong, or of another architecture.
    """
    file = folder / "config.json"
    config = read_json(file)
    for key in _OTHER_ARCHITECTURE:
        if config.get(key):
            raise BadInput(f"{label(file)}, {key}", config[key], "an EasyAnimate InP transformer, without it")
    check(file, {**dict.fromkeys(_NEEDED), **config}, config_checks.TRANSFORMER)
    return Part(folder, _built(file, lambda: build_transformer(config)), transformer_naming)


def build_transformer(config: dict[str, Any]) -> EasyAnimateTransformer3DModel:
    """The denoiser of that config, with the original's attention arithmetic."""
    known = arguments(config, EasyAnimateTransformer3DModel)
    transformer = EasyAnimateTransformer3DModel(**known)
    use_original_attention(transformer)
    if known.get("text_embed_dim_t5"):
        # V5's rotary grid was compared with the original; for V5.1 diffusers' pipeline is all there is to compare.
        use_original_rotary(transformer)
    return transformer


def vae_part(folder: Path) -> Part:
    """The video autoencoder.

    Raises:
        BadInput: Its config is missing or wrong.
    """
    file = folder / "config.json"
    config = read_json(file)
    check(file, config, config_checks.VAE)
    return Part(folder, _built(file, lambda: build_vae(config)))


def build_vae(config: dict[str, Any]) -> AutoencoderKLMagvit:
    """The video autoencoder of that config."""
    vae = AutoencoderKLMagvit(**arguments(config, AutoencoderKLMagvit))
    # diffusers' own pipelines ask the config for this key, but its class does not know it.
    vae.register_to_config(cache_mag_vae=config.get("cache_mag_vae", True))
    return vae


def text_parts(root: Path, family: Family) -> list[Part]:
    """The text encoders: BERT and T5, or Qwen2-VL's language model.

    Raises:
        BadInput: A config is missing or wrong.
    """
    if family == "v5":
        return [_text_part(root / "text_encoder", "bert"), _text_part(root / "text_encoder_2", "t5")]
    return [_text_part(root / "text_encoder", "qwen2_vl")]


def text_part(folder: Path, config: dict[str, Any]) -> Part:
    """The text encoder of that config, for the tensors in ``folder``."""
    match config["model_type"]:
        case "bert":
            return Part(folder, BertModel(BertConfig.from_dict(config)))
        case "t5" | "mt5":
            # Attention written out, as the model was trained with: the fused kernel's rounding is another one.
            t5 = T5EncoderModel(T5Config.from_dict(config, attn_implementation="eager"))
            # float16 overflows in T5's feed-forward output, which therefore stays float32 there.
            return Part(folder, t5, tied={"encoder.embed_tokens.weight": "shared.weight"}, keep_float32="wo")
        case _:
            qwen = build_qwen(config)
            return Part(folder, qwen, partial(qwen_naming, len(qwen.layers)))


def _text_part(folder: Path, kind: str) -> Part:
    file, config = _text_config(folder)
    return _built(file, lambda: text_part(folder, {**config, "model_type": kind}))


def _text_config(folder: Path) -> tuple[Path, dict]:
    file = folder / "config.json"
    config = read_json(file)
    check(file, config, config_checks.TEXT_ENCODER)
    nested = config.get("text_config")
    if isinstance(nested, dict):
        check(file, nested, config_checks.TEXT_ENCODER)
    return file, config


def _built(config_file: Path, build: Callable[[], T]) -> T:
    """What ``build`` makes, its parameters on the meta device and its buffers real."""
    try:
        with init_empty_weights(include_buffers=False):
            return build()
    except _BAD_CONFIG as error:
        raise BadInput(label(config_file), f"{type(error).__name__}: {error}", "a valid model config") from None
