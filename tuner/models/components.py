"""A loaded checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from transformers import BertModel, BertTokenizer, T5EncoderModel, T5Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from tuner.models.family import Family


@dataclass
class Components:
    """Everything a generation needs of a model, weights on the host.

    Attributes:
        name: Name the model was asked for by.
        path: Folder it was read from.
        transformer: Denoiser, with the original's attention arithmetic.
        vae: Video autoencoder.
        text_encoder: V5: bilingual CLIP text model (BERT). V5.1: Qwen2-VL's language model up to its last but one
            layer. The prompt's states are the first of its outputs.
        text_encoder_2: V5: multilingual T5 encoder. V5.1: None.
        tokenizer: For ``text_encoder``; V5.1's has the chat template that a prompt is put into.
        tokenizer_2: For ``text_encoder_2``.
        scheduler_config: As in the checkpoint, for any diffusers scheduler's ``from_config``.
        dtype: Of the weights; with float16, T5 keeps the layers that overflow in float32.
        device: Where compute will run; the engine decides what of the weights lies there.
        family: Which EasyAnimate it is.
        loras: Files merged into the transformer, and how much of each.
        encodings: Prompts and pictures the engine encoded, on the host, for later runs.
    """

    name: str
    path: Path
    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    text_encoder: BertModel | Qwen2VLTextModel
    text_encoder_2: T5EncoderModel | None
    tokenizer: BertTokenizer | Qwen2Tokenizer
    tokenizer_2: T5Tokenizer | None
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    family: Family = "v5"
    loras: tuple[tuple[Path, float], ...] = ()
    encodings: OrderedDict[Hashable, tuple[torch.Tensor, ...]] = field(default_factory=OrderedDict, repr=False)
