"""The ways to run one part of a model that are compared: stock, diffusers' group offloading, and tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from tuner.bench.inputs import Inputs
from tuner.engine.placement import Placement
from tuner.engine.transformer import TransformerRunner
from tuner.engine.vae import VaeRunner
from tuner.engine.weights import on_device
from tuner.meter.meter import Meter
from tuner.settings import Settings

STOCK, OFFLOADED = "stock", "group offloading"
NO_OFFLOADING = (
    f"{OFFLOADED}: left out; on a machine without a card both its devices are the CPU, and it moves nothing"
)
_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")

Call = Callable[[], Tensor]
Opened = AbstractContextManager[Call]


@dataclass(frozen=True)
class Way:
    """One way to do the computation that all ways do.

    Attributes:
        name: What the table calls it.
        open: Brings to the device what stays there while the context lasts; gives the call that is measured.
        settings: The knobs of a tuned way.
        counts_itself: Whether all its copies go through the meter.
        hides_copies: Whether it would make copies on a card that cannot be seen here.
    """

    name: str
    open: Callable[[Meter], Opened]
    settings: Settings | None = None
    counts_itself: bool = False
    hides_copies: bool = False


def transformer_ways(
    model: EasyAnimateTransformer3DModel, inputs: Inputs, device: torch.device, tuned: dict[str, Settings]
) -> list[Way]:
    """Ways to predict for ``inputs``: stock first, group offloading on a card, then each of ``tuned``."""

    @contextmanager
    def stock(meter: Meter) -> Iterator[Call]:
        with on_device(model, Placement(device, meter), list(model.transformer_blocks)):
            yield lambda: inputs.apply(model)

    @contextmanager
    def offloaded(_: Meter) -> Iterator[Call]:
        with group_offloaded(model, device, "block_level"):
            yield lambda: inputs.apply(model)

    def runner(settings: Settings) -> Callable[[Meter], Opened]:
        @contextmanager
        def opened(meter: Meter) -> Iterator[Call]:
            runner = TransformerRunner(model, settings, device, meter=meter)
            try:
                yield lambda: inputs.apply(runner)
            finally:
                runner.close()

        return opened

    return _ways(stock, offloaded, runner, device, tuned)


def decode_ways(
    vae: AutoencoderKLMagvit, latents: Tensor, device: torch.device, tuned: dict[str, Settings]
) -> list[Way]:
    """Ways to decode ``latents`` into frames on the host: as :func:`transformer_ways`."""
    anyone: Any = vae

    @contextmanager
    def stock(meter: Meter) -> Iterator[Call]:
        placement = Placement(device, meter)
        with on_device(vae, placement):
            yield lambda: _gathered(iter([anyone.decode(latents).sample]), placement)

    @contextmanager
    def offloaded(meter: Meter) -> Iterator[Call]:
        # As a whole the VAE's own forward is never called, on which diffusers' prefetching waits: two parts.
        parts = group_offloaded(vae.decoder, device, "leaf_level"), _moved(vae.post_quant_conv, device)
        with parts[0], parts[1]:
            yield lambda: _gathered(iter([anyone.decode(latents).sample]), Placement(device, meter))

    def runner(settings: Settings) -> Callable[[Meter], Opened]:
        @contextmanager
        def opened(meter: Meter) -> Iterator[Call]:
            runner = VaeRunner(vae, settings, device, meter=meter)
            yield lambda: _gathered(runner.decode(latents), Placement(device, meter))

        return opened

    return _ways(stock, offloaded, runner, device, tuned)


@contextmanager
def group_offloaded(module: nn.Module, device: torch.device, level: str) -> Iterator[None]:
    """Group offloading of diffusers as its documentation recommends it, taken off again afterwards.

    One block (or one leaf) at a time is on the device; on a card the next one is copied meanwhile on a stream of
    its own.
    """
    streams = device.type == "cuda"
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=level,
        num_blocks_per_group=1,
        use_stream=streams,
        record_stream=streams,
    )
    try:
        yield
    finally:
        for part in module.modules():
            registry = getattr(part, "_diffusers_hook", None)
            if isinstance(registry, HookRegistry):
                for name in _HOOKS:
                    registry.remove_hook(name, recurse=False)
        module.to("cpu")


@contextmanager
def _moved(module: nn.Module, device: torch.device) -> Iterator[None]:
    module.to(device)
    try:
        yield
    finally:
        module.to("cpu")


def _gathered(chunks: Iterator[Tensor], placement: Placement) -> Tensor:
    """Frames on the host, where the clip is written from; each chunk leaves the device as it is ready."""
    on_host = [placement.to_host(chunk) for chunk in chunks]
    with placement.meter.host():
        return torch.cat(on_host, dim=2)


def _ways(
    stock: Callable[[Meter], Opened],
    offloaded: Callable[[Meter], Opened],
    runner: Callable[[Settings], Callable[[Meter], Opened]],
    device: torch.device,
    tuned: dict[str, Settings],
) -> list[Way]:
    ours = [Way(name, runner(settings), settings, counts_itself=True) for name, settings in tuned.items()]
    peers = [Way(OFFLOADED, offloaded)] if device.type == "cuda" else []
    return [Way(STOCK, stock, hides_copies=device.type == "cpu"), *peers, *ours]
