"""Load a checkpoint: the original EasyAnimateV5-InP layout, or the same with diffusers' tensor names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel

from tuner.errors import BadInput
from tuner.models.attention import use_original_attention
from tuner.models.components import Components
from tuner.models.keys import to_diffusers
from tuner.models.registry import find_model
from tuner.models.rotary import use_original_rotary
from tuner.models.t5_tokenizer import load_t5_tokenizer
from tuner.models.weights import fill, label, read_json
from tuner.settings import Settings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NEEDS = {"text_encoder": "BertModel", "text_encoder_2": "T5EncoderModel"}
_OTHER_ARCHITECTURE = ("ref_channels", "clip_channels", "swa_layers")
_BAD_CONFIG = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_COMPLETE = "a complete checkpoint folder; copy this file again"

T = TypeVar("T")


def load_model(
    name_or_path: str | Path, settings: Settings | None = None, device: str | torch.device | None = None
) -> Components:
    """Read a model into host memory.

    Args:
        name_or_path: A name from :func:`tuner.models.registry.list_models`, or a checkpoint folder.
        settings: Its ``precision`` decides the dtype of the weights.
        device: Where compute will run; None takes the CUDA card if there is one.

    Raises:
        BadInput: No such model, or its folder is incomplete, damaged or of another architecture.
    """
    info = find_model(name_or_path)
    path = info.folder()
    where = _device(device)
    dtype = _dtype((settings or Settings()).precision, where)
    _check_layout(path)
    components = Components(
        name=info.name,
        path=path,
        transformer=_load_transformer(path / "transformer", dtype),
        vae=_load_vae(path / "vae", dtype),
        text_encoder=_load_bert(path / "text_encoder", dtype),
        text_encoder_2=_load_t5(path / "text_encoder_2", dtype),
        tokenizer=_load_tokenizer(_bert_tokenizer, path / "tokenizer" / "vocab.txt"),
        tokenizer_2=_load_tokenizer(load_t5_tokenizer, path / "tokenizer_2" / "spiece.model"),
        scheduler_config=read_json(path / "scheduler" / "scheduler_config.json"),
        dtype=dtype,
        device=where,
    )
    _check_fit(components)
    return components


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError:
        raise BadInput("device", device, "cpu, cuda, or cuda:N") from None


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return _DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def _check_layout(path: Path) -> None:
    index = read_json(path / "model_index.json")
    for part, needed in _NEEDS.items():
        found = index.get(part)
        if not isinstance(found, list) or found[-1:] != [needed]:
            raise BadInput(
                label(path / "model_index.json"),
                f"{part}: {found}",
                f"an EasyAnimateV5 model, whose {part} is a {needed} (V5.1 is not supported yet)",
            )


def _check_fit(components: Components) -> None:
    """Raise :class:`BadInput` unless the transformer takes what the other parts give."""
    config = components.transformer.config
    latents = components.vae.config["latent_channels"]
    for key, needed in (
        ("out_channels", latents),
        ("in_channels", 2 * latents + 1),  # noise, the masked video's latents, the mask
        ("text_embed_dim", components.text_encoder.config.hidden_size),
        ("text_embed_dim_t5", components.text_encoder_2.config.d_model),
    ):
        if config[key] != needed:
            file = components.path / "transformer" / "config.json"
            raise BadInput(
                label(file), f"{key}: {config[key]}", f"{needed}, which the other parts of an InP model need"
            )


def _built(config_file: Path, build: Callable[[], T]) -> T:
    """What ``build`` makes, its parameters on the meta device and its buffers real."""
    try:
        with init_empty_weights(include_buffers=False):
            return build()
    except _BAD_CONFIG as error:
        raise BadInput(label(config_file), f"{type(error).__name__}: {error}", "a valid model config") from None


def _known(config: dict[str, Any], kind: type) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key in inspect.signature(kind.__init__).parameters}


def _load_transformer(folder: Path, dtype: torch.dtype) -> EasyAnimateTransformer3DModel:
    file = folder / "config.json"
    config = read_json(file)
    for key in _OTHER_ARCHITECTURE:
        if config.get(key):
            raise BadInput(label(file), f"{key}: {config[key]}", "an EasyAnimateV5-InP transformer, without it")
    known = _known(config, EasyAnimateTransformer3DModel)
    transformer = _built(file, lambda: EasyAnimateTransformer3DModel(**known))
    fill(transformer, folder, dtype, rename=to_diffusers)
    use_original_attention(transformer)
    use_original_rotary(transformer)
    return transformer


def _load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKLMagvit:
    file = folder / "config.json"
    config = read_json(file)
    vae = _built(file, lambda: AutoencoderKLMagvit(**_known(config, AutoencoderKLMagvit)))
    fill(vae, folder, dtype)
    # diffusers' own pipelines ask the config for this key, but its class does not know it.
    vae.register_to_config(cache_mag_vae=config.get("cache_mag_vae", True))
    return vae


def _load_bert(folder: Path, dtype: torch.dtype) -> BertModel:
    file = folder / "config.json"
    config = read_json(file)
    bert = _built(file, lambda: BertModel(BertConfig.from_dict(config)))
    fill(bert, folder, dtype)
    return bert


def _load_t5(folder: Path, dtype: torch.dtype) -> T5EncoderModel:
    file = folder / "config.json"
    config = read_json(file)
    t5 = _built(file, lambda: T5EncoderModel(T5Config.from_dict(config)))
    # float16 overflows in T5's feed-forward output, which therefore stays float32 there.
    keep = "wo" if dtype == torch.float16 else ""
    fill(t5, folder, dtype, tied={"encoder.embed_tokens.weight": "shared.weight"}, keep_float32=keep)
    t5.set_input_embeddings(t5.shared)
    return t5


def _load_tokenizer(read: Callable[[Path], T], vocabulary: Path) -> T:
    folder = vocabulary.parent
    if not vocabulary.is_file():
        raise BadInput(label(vocabulary), "missing file", _COMPLETE)
    read_json(folder / "tokenizer_config.json")
    try:
        return read(folder)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(label(vocabulary), str(error), "a tokenizer's vocabulary; copy it again") from None


def _bert_tokenizer(folder: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(folder, local_files_only=True)
