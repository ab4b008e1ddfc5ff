"""Prompts into states: BERT and T5, padded to their full length, without an attention mask, as V5 was trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tuner.engine.cache import ConditionCache
from tuner.engine.placement import Placement
from tuner.models.components import Components

MAX_TOKENS = 256


@torch.no_grad()
def encode_prompts(
    prompts: list[str],
    components: Components,
    placement: Placement,
    cache: ConditionCache,
    on_device: Callable[[nn.Module], AbstractContextManager[None]],
) -> tuple[Tensor, Tensor]:
    """Both encoders' states of every prompt, on the device.

    Args:
        prompts: One per sample of the batch.
        components: The encoders and their tokenizers.
        placement: Moves the states; they are kept on the host.
        cache: Of states on the host: a prompt it holds is not encoded again.
        on_device: Brings an encoder to the device.

    Returns:
        ``[B, L, D]`` of the first encoder and ``[B, L2, D2]`` of the second.
    """
    encoders = (
        (components.text_encoder, components.tokenizer),
        (components.text_encoder_2, components.tokenizer_2),
    )
    states = []
    for number, (encoder, tokenizer) in enumerate(encoders):
        encoded = []
        for prompt in prompts:

            def make(
                encoder: nn.Module = encoder, tokenizer: Any = tokenizer, prompt: str = prompt
            ) -> tuple[Tensor]:
                with on_device(encoder):
                    ids = placement.to_device(_token_ids(tokenizer, prompt, placement))
                    return (placement.to_host(encoder(ids)[0]),)

            encoded.append(cache.get(("text", number, prompt), make)[0])
        states.append(torch.cat([placement.to_device(state) for state in encoded]))
    return states[0], states[1]


def _token_ids(tokenizer: Any, prompt: str, placement: Placement) -> Tensor:
    length = min(tokenizer.model_max_length, MAX_TOKENS)
    found = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
    if found > length:
        placement.meter.notice(
            f"prompt: {found} tokens, of which {type(tokenizer).__name__} reads the first {length}"
        )
    with placement.meter.host():
        return tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
