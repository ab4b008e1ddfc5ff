"""What one generation has at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuner.engine.cache import ConditionCache
from tuner.engine.engines import Engine
from tuner.engine.placement import Placement
from tuner.errors import BadInput
from tuner.meter.meter import Meter
from tuner.models.components import Components
from tuner.request import Request
from tuner.settings import Settings


@dataclass(frozen=True)
class Run:
    """One generation: what to make, how, with what.

    Attributes:
        request: What to make.
        settings: How to make it.
        components: The model.
        placement: Moves tensors and counts it.
        engine: Makes the model's parts ready to compute.
        encoded: Encodings kept on the host from run to run.
    """

    request: Request
    settings: Settings
    components: Components
    placement: Placement
    engine: Engine
    encoded: ConditionCache

    @property
    def meter(self) -> Meter:
        """Measures the run."""
        return self.placement.meter

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied with for the transformer."""
        return self.components.vae.config["scaling_factor"]

    @property
    def seeds(self) -> list[int]:
        """One per clip."""
        return [self.request.seed + number for number in range(self.request.num_clips)]

    def noise(self, generators: list[torch.Generator], given: Tensor | None) -> Tensor:
        """The starting noise ``[clips, 16, t, h, w]`` on the host, before the scheduler's scaling.

        Raises:
            BadInput: ``given`` has another shape.
        """
        vae, request = self.components.vae, self.request
        shape = (
            vae.config["latent_channels"],
            (request.frames - 1) // vae.temporal_compression_ratio + 1,
            request.height // vae.spatial_compression_ratio,
            request.width // vae.spatial_compression_ratio,
        )
        if given is None:
            given = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        if tuple(given.shape) != (len(generators), *shape):
            raise BadInput("initial_latents", list(given.shape), f"a tensor of shape {[len(generators), *shape]}")
        return given.to("cpu", self.components.dtype)
