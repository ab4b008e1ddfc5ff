"""Prompts into states: BERT and T5, padded to their full length, without an attention mask, as V5 was trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache as remembered
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tuner.engine.cache import ConditionCache
from tuner.engine.encoders import Encode
from tuner.engine.placement import Placement
from tuner.models.components import Components

MAX_TOKENS = 256


def encode_prompts(
    prompts: list[str],
    components: Components,
    placement: Placement,
    cache: ConditionCache,
    encoder_ready: Callable[[nn.Module], AbstractContextManager[Encode]],
) -> tuple[Tensor, Tensor]:
    """Both encoders' states of every prompt, on the device.

    Args:
        prompts: One per sample of the batch.
        components: The encoders and their tokenizers.
        placement: Moves the states; they are kept on the host.
        cache: Of states on the host: a prompt it holds is not encoded again.
        encoder_ready: Makes an encoder ready to be called.

    Returns:
        ``[B, L, D]`` of the first encoder and ``[B, L2, D2]`` of the second.
    """
    encoders = (
        (components.text_encoder, components.tokenizer),
        (components.text_encoder_2, components.tokenizer_2),
    )
    states = []
    for number, (encoder, tokenizer) in enumerate(encoders):
        with ExitStack() as stack:
            ready = remembered(lambda encoder=encoder, stack=stack: stack.enter_context(encoder_ready(encoder)))

            def make(
                prompt: str, tokenizer: Any = tokenizer, ready: Callable[[], Encode] = ready
            ) -> tuple[Tensor]:
                return (placement.to_host(ready()(_token_ids(tokenizer, prompt, placement))),)

            encoded = [cache.get(("text", number, prompt), partial(make, prompt)) for prompt in prompts]
        states.append(torch.cat([placement.to_device(state) for (state,) in encoded]))
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
