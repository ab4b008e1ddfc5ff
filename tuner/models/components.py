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


@dataclass
class Components:
    """Everything a generation needs of a model, weights on the host.

    Attributes:
        name: Name the model was asked for by.
        path: Folder it was read from.
        transformer: Denoiser, with the original's attention arithmetic.
        vae: Video autoencoder.
        text_encoder: Bilingual CLIP text model (BERT).
        text_encoder_2: Multilingual T5 encoder.
        tokenizer: For ``text_encoder``.
        tokenizer_2: For ``text_encoder_2``.
        scheduler_config: As in the checkpoint, for any diffusers scheduler's ``from_config``.
        dtype: Of the weights; with float16, T5 keeps the layers that overflow in float32.
        device: Where compute will run; the engine decides what of the weights lies there.
        encodings: Prompts and pictures the engine encoded, on the host, for later runs.
    """

    name: str
    path: Path
    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    text_encoder: BertModel
    text_encoder_2: T5EncoderModel
    tokenizer: BertTokenizer
    tokenizer_2: T5Tokenizer
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    encodings: OrderedDict[Hashable, tuple[torch.Tensor, ...]] = field(default_factory=OrderedDict, repr=False)
