"""Prompts into states, as the models were trained.

V5 reads a prompt with BERT and T5, padded to their full length and without an attention mask. V5.1 puts it into
Qwen2-VL's chat template, and its padding is masked inside Qwen only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cache as remembered
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tuner.engine.cache import ConditionCache
from tuner.engine.encoders import Encode, Tokens
from tuner.engine.placement import Placement
from tuner.models.components import Components

MAX_TOKENS = 256


def encode_prompts(
    prompts: list[str],
    components: Components,
    placement: Placement,
    cache: ConditionCache,
    encoder_ready: Callable[[nn.Module], AbstractContextManager[Encode]],
) -> tuple[Tensor, Tensor | None]:
    """The encoders' states of every prompt, on the device.

    Args:
        prompts: One per sample of the batch.
        components: The encoders and their tokenizers.
        placement: Moves the states; they are kept on the host.
        cache: Of states on the host: a prompt it holds is not encoded again.
        encoder_ready: Makes an encoder ready to be called.

    Returns:
        ``[B, L, D]`` of the first encoder and ``[B, L2, D2]`` of the second, None where there is none.
    """
    encoders: list[tuple[Any, Any]] = [(components.text_encoder, components.tokenizer)]
    if components.text_encoder_2 is not None:
        encoders.append((components.text_encoder_2, components.tokenizer_2))
    chat = components.family == "v5.1"
    states = []
    for number, (encoder, tokenizer) in enumerate(encoders):
        with ExitStack() as stack:
            ready = remembered(lambda encoder=encoder, stack=stack: stack.enter_context(encoder_ready(encoder)))

            def make(
                prompt: str, tokenizer: Any = tokenizer, ready: Callable[[], Encode] = ready
            ) -> tuple[Tensor]:
                return (placement.to_host(ready()(_tokens(tokenizer, prompt, chat, placement))),)

            encoded = [cache.get(("text", number, prompt), partial(make, prompt)) for prompt in prompts]
        states.append(torch.cat([placement.to_device(state) for (state,) in encoded]))
    return states[0], states[1] if len(states) > 1 else None


def _tokens(tokenizer: Any, prompt: str, chat: bool, placement: Placement) -> Tokens:
    length = min(tokenizer.model_max_length, MAX_TOKENS)
    text = prompt
    if chat:
        message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    found = len(tokenizer(text, truncation=False, verbose=False).input_ids)
    if found > length:
        name = type(tokenizer).__name__
        placement.meter.notice(f"prompt: {found} tokens, of which {name} reads the first {length}")
    with placement.meter.host():
        padded = tokenizer(
            text,
            padding="max_length",
            max_length=length,
            truncation=True,
            padding_side="right",
            return_tensors="pt",
        )
    return Tokens(padded.input_ids, padded.attention_mask if chat else None)
