"""The two ways to run a model: within the knobs, and stock.

Both give the same three things: text encoders, a transformer and a VAE that compute on the device while a
context lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from tuner.engine.denoise import Denoiser
from tuner.engine.encoders import Encode, encoder_blocks, resident_encoder, streamed_encoder
from tuner.engine.placement import Placement
from tuner.engine.transformer import TransformerRunner
from tuner.engine.vae import VaeRunner
from tuner.engine.weights import on_device
from tuner.models.components import Components
from tuner.settings import Settings


class VideoCodec(Protocol):
    """A VAE that gives decoded frames chunk by chunk."""

    def encode(self, video: Tensor, repeats: Sequence[bool] = ()) -> Tensor: ...

    def decode(self, latents: Tensor) -> Iterator[Tensor]: ...


class Engine(Protocol):
    """How the parts of a model get to compute."""

    def resident(self) -> AbstractContextManager[object]:
        """What holds for the whole run."""
        ...

    def encoder(self, encoder: nn.Module) -> AbstractContextManager[Encode]:
        """A text encoder, ready to be called."""
        ...

    def transformer(self) -> AbstractContextManager[Denoiser]:
        """The transformer, ready to be called."""
        ...

    def vae(self) -> VideoCodec:
        """The VAE, ready to encode and decode."""
        ...


class Tuned:
    """Each part is on the device only while it computes, as far as the knobs let it."""

    def __init__(self, components: Components, settings: Settings, placement: Placement) -> None:
        self._components, self._settings, self._placement = components, settings, placement

    def resident(self) -> AbstractContextManager[object]:
        return nullcontext()

    def encoder(self, encoder: nn.Module) -> AbstractContextManager[Encode]:
        return streamed_encoder(encoder, self._settings, self._placement)

    @contextmanager
    def transformer(self) -> Iterator[Denoiser]:
        meter, device = self._placement.meter, self._placement.device
        runner = TransformerRunner(self._components.transformer, self._settings, device, meter=meter)
        try:
            yield runner
        finally:
            runner.close()

    def vae(self) -> VideoCodec:
        meter, device = self._placement.meter, self._placement.device
        return VaeRunner(self._components.vae, self._settings, device, meter=meter)


class Stock:
    """The baseline: everything on the device from first to last, diffusers' own forwards."""

    def __init__(self, components: Components, settings: Settings, placement: Placement) -> None:
        self._components, self._placement = components, placement

    @contextmanager
    def resident(self) -> Iterator[object]:
        parts = self._components
        with ExitStack() as stack:
            for encoder in (parts.text_encoder, parts.text_encoder_2):
                if encoder is not None:
                    stack.enter_context(on_device(encoder, self._placement, encoder_blocks(encoder)))
            blocks = list(parts.transformer.transformer_blocks)
            stack.enter_context(on_device(parts.transformer, self._placement, blocks))
            stack.enter_context(on_device(parts.vae, self._placement))
            yield None

    def encoder(self, encoder: nn.Module) -> AbstractContextManager[Encode]:
        return resident_encoder(encoder, self._placement)

    def transformer(self) -> AbstractContextManager[Denoiser]:
        return nullcontext(_StockTransformer(self._components.transformer))

    def vae(self) -> VideoCodec:
        return _StockVae(self._components.vae, self._placement)


class _StockTransformer:
    def __init__(self, model: EasyAnimateTransformer3DModel) -> None:
        self._model = model

    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_t5: Tensor | None = None,
        inpaint_latents: Tensor | None = None,
    ) -> Tensor:
        return self._model(
            hidden_states,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            encoder_hidden_states_t5=encoder_hidden_states_t5,
            inpaint_latents=inpaint_latents,
            return_dict=False,
        )[0]


class _StockVae:
    def __init__(self, vae: AutoencoderKLMagvit, placement: Placement) -> None:
        self._vae, self._placement = vae, placement

    @torch.no_grad()
    def encode(self, video: Tensor, repeats: Sequence[bool] = ()) -> Tensor:
        vae: Any = self._vae
        return vae.encode(self._placement.on_device(video)).latent_dist.mode()

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            vae: Any = self._vae
            yield vae.decode(latents).sample


ENGINES: dict[str, type[Tuned] | type[Stock]] = {"tuned": Tuned, "stock": Stock}
