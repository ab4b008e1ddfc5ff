"""The transformer, run block by block and token chunk by token chunk.

The arithmetic is that of diffusers' ``EasyAnimateTransformer3DModel`` in another order: its own modules are
called, on fewer tokens at a time. Only keys and values of a block exist for all tokens; normed tokens,
queries, attention output and the feed-forward's inner states exist for one chunk, and residuals are added in
place.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from tuner.engine.cache import ConditionCache
from tuner.engine.placement import Placement
from tuner.engine.weights import BlockWeights, PackedModule
from tuner.errors import BadInput
from tuner.meter.meter import Meter
from tuner.models.attention import OriginalAttnProcessor
from tuner.settings import Settings

_PACKAGES = {"flash": "flash_attn", "sage": "sageattention", "xformers": "xformers"}
_CARD_ONLY = ("_native_efficient", *_PACKAGES)


def check_attention(backend: str, device: torch.device) -> None:
    """Refuse an attention backend that cannot run here.

    Raises:
        BadInput: It needs a CUDA card, or a package that is not installed.
    """
    if backend in _CARD_ONLY and device.type == "cpu":
        raise BadInput("attention", backend, "native, _native_flash or _native_math on a CPU")
    package = _PACKAGES.get(backend)
    if package and find_spec(package) is None:
        raise BadInput("attention", backend, f"native, or {backend} once the package {package} is installed")


class TransformerRunner:
    """Runs a transformer whose weights are on the host, within the knobs.

    Called like diffusers' transformer it returns the same tensor. ``batch_size`` samples go through a block
    together, ``token_chunk`` tokens at a time; ``cache_capacity`` holds the rotary table first, then blocks.

    Args:
        model: Weights on the host; which of the two ways its single-stream blocks project text (see
            :mod:`tuner.models.attention`) is respected.
        settings: The knobs.
        device: Where to compute; by default the first CUDA card, else the CPU.
        meter: Counts transfers and cache use.
    """

    def __init__(
        self,
        model: EasyAnimateTransformer3DModel,
        settings: Settings,
        device: torch.device | str | None = None,
        *,
        meter: Meter | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._placement = Placement(device, meter)
        self._meter = self._placement.meter
        self._conditions = ConditionCache(settings.cache_bytes, self._meter.caches["conditions"])
        self._trunk = PackedModule(model, self._placement, without=list(model.transformer_blocks))
        self._trunk.bind(self._trunk.views(self._placement.to_device(self._trunk.host)))
        self._blocks: BlockWeights | None = None

    @torch.no_grad()
    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_t5: Tensor | None = None,
        inpaint_latents: Tensor | None = None,
    ) -> Tensor:
        """Predict for a batch of noisy latents.

        Args:
            hidden_states: Noisy latents ``[B, 16, t, h, w]`` on the device, in the weights' dtype.
            timestep: ``[B]``.
            encoder_hidden_states: First text encoder's states ``[B, L, D]``.
            encoder_hidden_states_t5: Second text encoder's states ``[B, L5, D5]``.
            inpaint_latents: Mask and masked video ``[B, 17, t, h, w]``.

        Returns:
            The prediction ``[B, 16, t, h, w]``.

        Raises:
            Cancelled: The run was stopped between two blocks.
        """
        model: Any = self._model
        batch = hidden_states.shape[0]
        rotary = self._rotary(hidden_states)
        time = model.time_embedding(model.time_proj(timestep).to(hidden_states.dtype), None)
        groups = [slice(i, i + self._settings.batch_size) for i in range(0, batch, self._settings.batch_size)]
        texts = [
            self._text_tokens(
                encoder_hidden_states[group],
                encoder_hidden_states_t5[group] if encoder_hidden_states_t5 is not None else None,
            )
            for group in groups
        ]
        videos = [
            self._video_tokens(
                hidden_states[group], inpaint_latents[group] if inpaint_latents is not None else None
            )
            for group in groups
        ]
        for block in self._resident_and_streamed():
            for group, video, text in zip(groups, videos, texts, strict=True):
                self._meter.checkpoint()
                self._meter.in_place(self._attend, block, video, text, time[group], rotary)
                self._meter.in_place(self._feed_forward, block, video, text, time[group])
        prediction = torch.empty_like(hidden_states)
        while videos:
            group = groups.pop()
            prediction[group] = self._unpatched(videos.pop(), time[group], hidden_states)
        return prediction

    def close(self) -> None:
        """Give the model its host weights back and free the device."""
        if self._blocks:
            self._blocks.close()
        self._conditions.clear()
        self._trunk.unbind()

    def _resident_and_streamed(self) -> BlockWeights:
        if self._blocks is None:
            self._blocks = BlockWeights(
                list(self._model.transformer_blocks),
                self._placement,
                self._settings.cache_bytes - self._conditions.held_bytes,
                self._settings.prefetch,
                self._meter.caches["weights"],
            )
        return self._blocks

    def _rotary(self, latents: Tensor) -> tuple[Tensor, ...]:
        def make() -> tuple[Tensor, ...]:
            with self._meter.host():
                tables = self._model.rope_embedding(latents)
            return tuple(self._placement.to_device(table) for table in tables)

        return self._conditions.get(tuple(latents.shape[2:]), make)

    def _text_tokens(self, states: Tensor, states_t5: Tensor | None) -> Tensor:
        """Both encoders' states, projected: ``[b, L, C]``, contiguous and ours to change."""
        model: Any = self._model
        tokens = model.text_proj(states)
        if states_t5 is None:
            return tokens
        return torch.cat([tokens, model.text_proj_t5(states_t5)], dim=1)

    def _video_tokens(self, latents: Tensor, inpaint: Tensor | None) -> Tensor:
        """Patches of all frames as tokens ``[b, t*h*w, C]``."""
        batch, _, frames, height, width = latents.shape
        patch = self._model.config["patch_size"]
        per_frame = (height // patch) * (width // patch)
        tokens = latents.new_empty(batch, frames * per_frame, self._model.proj.out_channels)
        for frame in range(frames):
            picture = latents[:, :, frame]
            if inpaint is not None:
                picture = torch.cat([picture, inpaint[:, :, frame]], dim=1)
            patches = self._model.proj(picture).flatten(2).transpose(1, 2)
            tokens[:, frame * per_frame : (frame + 1) * per_frame] = patches
        return tokens

    def _chunks(self, tokens: int) -> list[slice]:
        size = self._settings.token_chunk or tokens
        return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]

    def _attend(self, block: Any, video: Tensor, text: Tensor, time: Tensor, rotary: tuple[Tensor, ...]) -> None:
        """Joint attention of text and video, added to both in place."""
        attn = block.attn1
        shift, scale, gate, text_shift, text_scale, text_gate = _modulation(block.norm1, time)
        own = attn.add_q_proj is not None
        length, heads = text.shape[1], attn.heads

        normed_text = _modulate(block.norm1.norm(text), text_shift, text_scale)
        to_q, to_k, to_v = (
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if own else (attn.to_q, attn.to_k, attn.to_v)
        )
        norm_q, norm_k = (attn.norm_added_q, attn.norm_added_k) if own else (attn.norm_q, attn.norm_k)
        text_key = _normed(norm_k, to_k(normed_text), heads)
        keys = text_key.new_empty(text.shape[0], length + video.shape[1], heads, text_key.shape[-1])
        values = torch.empty_like(keys)
        keys[:, :length] = text_key
        values[:, :length] = to_v(normed_text).unflatten(2, (heads, -1))
        del text_key

        chunks = self._chunks(video.shape[1])
        normed = None
        for chunk in chunks:
            normed = _modulate(block.norm1.norm(video[:, chunk]), shift, scale)
            key = _rotated(_normed(attn.norm_k, attn.to_k(normed), heads), rotary, chunk)
            keys[:, length + chunk.start : length + chunk.stop] = key
            del key
            values[:, length + chunk.start : length + chunk.stop] = attn.to_v(normed).unflatten(2, (heads, -1))
            if len(chunks) > 1:
                normed = None
        for chunk in chunks:
            if normed is None or len(chunks) > 1:
                normed = _modulate(block.norm1.norm(video[:, chunk]), shift, scale)
            query = _rotated(_normed(attn.norm_q, attn.to_q(normed), heads), rotary, chunk)
            normed = None
            attended = self._scaled_dot_product(query, keys, values)
            del query
            video[:, chunk].add_(attn.to_out[1](attn.to_out[0](attended)).mul_(gate))
            del attended
        attended = self._scaled_dot_product(_normed(norm_q, to_q(normed_text), heads), keys, values)
        if own:
            attended = attn.to_add_out(attended)
        elif isinstance(attn.processor, OriginalAttnProcessor):
            attended = attn.to_out[1](attn.to_out[0](attended))
        text.add_(attended.mul_(text_gate))

    def _scaled_dot_product(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of ``[b, n, H, D]`` queries over all keys, heads joined: ``[b, n, H*D]``."""
        out = dispatch_attention_fn(query, keys, values, backend=self._settings.attention)  # type: ignore[arg-type]
        return out.flatten(2, 3).to(query.dtype)

    def _feed_forward(self, block: Any, video: Tensor, text: Tensor, time: Tensor) -> None:
        """The feed-forward of text and video, added to both in place."""
        shift, scale, gate, text_shift, text_scale, text_gate = _modulation(block.norm2, time)
        after = block.norm3 or nn.Identity()
        for chunk in self._chunks(video.shape[1]):
            normed = _modulate(block.norm2.norm(video[:, chunk]), shift, scale)
            video[:, chunk].add_(after(block.ff(normed)).mul_(gate))
        normed = _modulate(block.norm2.norm(text), text_shift, text_scale)
        text.add_(after((block.txt_ff or block.ff)(normed)).mul_(text_gate))

    def _unpatched(self, video: Tensor, time: Tensor, like: Tensor) -> Tensor:
        """Tokens ``[b, t*h*w, C]`` as a prediction ``[b, 16, t, h, w]``."""
        model = self._model
        patch = model.config["patch_size"]
        _, channels, frames, height, width = like.shape
        out = video.new_empty(video.shape[0], video.shape[1], model.proj_out.out_features)
        for chunk in self._chunks(video.shape[1]):
            out[:, chunk] = model.proj_out(model.norm_out(model.norm_final(video[:, chunk]), temb=time))
        patches = out.view(-1, frames, height // patch, width // patch, channels, patch, patch)
        return patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(-1, channels, frames, height, width)


def _modulation(norm: Any, time: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale, gate for video, then for text, each ``[b, 1, C]``: they depend on the timestep only."""
    return norm.linear(norm.silu(time)).unsqueeze(1).chunk(6, dim=-1)


def _modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normed.mul_(1 + scale).add_(shift)


def _normed(norm: nn.Module | None, projected: Tensor, heads: int) -> Tensor:
    """A projection ``[b, n, H*D]`` split into heads and normalised per head: ``[b, n, H, D]``."""
    split = projected.unflatten(2, (heads, -1))
    return norm(split) if norm is not None else split


def _rotated(states: Tensor, rotary: tuple[Tensor, ...], chunk: slice) -> Tensor:
    """``states`` ``[b, n, H, D]`` turned by the rotary table of their tokens, in float32 as diffusers does."""
    cos, sin = (table[chunk, None] for table in rotary)
    wide = states.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return turned.mul_(sin).add_(wide * cos).to(states.dtype)
