"""The transformer, run block by block: a few samples and a few tokens at a time, weights on the device in turn."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor

from tuner.engine.block import ChunkedBlock, rotary_turns
from tuner.engine.cache import ConditionCache
from tuner.engine.packed import PackedModule
from tuner.engine.placement import Placement
from tuner.engine.step_cache import StepCache
from tuner.engine.weights import BlockWeights
from tuner.errors import BadInput
from tuner.meter.meter import Meter
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
    together, ``token_chunk`` tokens at a time; ``cache_capacity`` holds the rotary table first, then what
    ``step_cache`` remembers, then blocks.

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
        self._run = ChunkedBlock(settings.token_chunk, settings.attention)
        self._conditions = ConditionCache(settings.cache_bytes, self._meter.caches["conditions"])
        blocks: Any = model.transformer_blocks
        self._packed = [PackedModule(block, self._placement) for block in blocks]
        self._trunk = PackedModule(model, self._placement, without=blocks)
        self._trunk.bind(self._trunk.views(self._placement.to_device(self._trunk.host)))
        self._blocks: BlockWeights | None = None
        self._steps: StepCache | None = None

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
        blocks = self._resident_and_streamed(hidden_states)
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

        def run(index: int) -> None:
            with blocks.on_device(index) as block:
                for group, video, text in zip(groups, videos, texts, strict=True):
                    self._meter.checkpoint()
                    self._meter.in_place(self._run, block, video, text, time[group], rotary, batch > 1)

        steps = self._steps
        if steps:
            steps.begin(videos)
        run(0)
        if not (steps and steps.leave_out(videos)):
            for index in range(1, len(blocks)):
                run(index)
            if steps:
                steps.remember(videos)
        prediction = torch.empty_like(hidden_states)
        while videos:
            group = groups.pop()
            prediction[group] = self._unpatched(videos.pop(), time[group], hidden_states)
        return prediction

    def close(self) -> None:
        """Give the model its host weights back and free the device."""
        if self._blocks:
            self._blocks.close()
        if self._steps:
            self._steps.forget()
        self._conditions.clear()
        self._trunk.unbind()

    def _resident_and_streamed(self, latents: Tensor) -> BlockWeights:
        """The blocks; at the first step, what of the capacity the rotary table left is shared out."""
        if self._blocks is None:
            capacity, settings = self._settings.cache_bytes - self._conditions.held_bytes, self._settings
            if settings.step_cache != "off":
                needed = self._token_bytes(latents)
                stays = needed <= capacity
                capacity -= needed if stays else 0
                counter = self._meter.caches["features"]
                self._steps = StepCache(settings.step_cache_threshold, stays, self._placement, counter)
            counter = self._meter.caches["weights"]
            self._blocks = BlockWeights(self._packed, self._placement, capacity, settings.prefetch, counter)
        return self._blocks

    def _token_bytes(self, latents: Tensor) -> int:
        """Bytes of the video tokens of ``[B, 16, t, h, w]``."""
        batch, _, frames, height, width = latents.shape
        patch = self._model.config["patch_size"]
        tokens = frames * (height // patch) * (width // patch)
        return batch * tokens * self._model.proj.out_channels * latents.element_size()

    def _rotary(self, latents: Tensor) -> Tensor:
        def make() -> tuple[Tensor]:
            with self._meter.host():
                turns = rotary_turns(self._model.rope_embedding(latents))
            # In use during every forward: that it stays in between costs nothing at the peak.
            self._conditions.capacity_bytes = max(self._settings.cache_bytes, turns.nbytes)
            return (self._placement.to_device(turns),)

        return self._conditions.get(tuple(latents.shape[2:]), make)[0]

    def _text_tokens(self, states: Tensor, states_t5: Tensor | None) -> Tensor:
        """Both encoders' states, projected: ``[b, L, C]``, contiguous and ours to change."""
        model: Any = self._model
        tokens = model.text_proj(states)
        if states_t5 is None:
            return tokens
        return torch.cat([tokens, model.text_proj_t5(states_t5)], dim=1)

    def _video_tokens(self, latents: Tensor, inpaint: Tensor | None) -> Tensor:
        """Patches of all frames as tokens ``[b, t*h*w, C]``, as many frames at a time as make a token chunk."""
        frames, height, width = latents.shape[2:]
        patch = self._model.config["patch_size"]
        per_frame = (height // patch) * (width // patch)
        at_once = max((self._settings.token_chunk or frames * per_frame) // per_frame, 1)
        tokens = latents.new_empty(len(latents), frames * per_frame, self._model.proj.out_channels)
        for start in range(0, frames, at_once):
            some = slice(start, start + at_once)
            pictures = latents[:, :, some]
            if inpaint is not None:
                pictures = torch.cat([pictures, inpaint[:, :, some]], dim=1)
            patches = self._model.proj(pictures.transpose(1, 2).flatten(0, 1))
            patches = patches.unflatten(0, (len(latents), -1)).flatten(3).transpose(2, 3).flatten(1, 2)
            tokens[:, start * per_frame : start * per_frame + patches.shape[1]] = patches
        return tokens

    def _unpatched(self, video: Tensor, time: Tensor, like: Tensor) -> Tensor:
        """Tokens ``[b, t*h*w, C]`` as a prediction ``[b, 16, t, h, w]``."""
        model = self._model
        patch = model.config["patch_size"]
        _, channels, frames, height, width = like.shape
        out = video.new_empty(video.shape[0], video.shape[1], model.proj_out.out_features)
        for chunk in self._run.chunks(video.shape[1]):
            out[:, chunk] = model.proj_out(model.norm_out(model.norm_final(video[:, chunk]), temb=time))
        patches = out.view(-1, frames, height // patch, width // patch, channels, patch, patch)
        return patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(-1, channels, frames, height, width)
