"""One generation, rehearsed: the engine runs from first stage to last and nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuner.engine.denoise import make_scheduler
from tuner.engine.generate import generate
from tuner.forecast.card import FakeCard
from tuner.forecast.meter import ForecastMeter
from tuner.forecast.shapes import Shapes
from tuner.forecast.trace import Entry
from tuner.meter.measured import Measured
from tuner.models.components import Components
from tuner.request import PICTURES, Request
from tuner.settings import Settings

_STEPS = 2
_STEPS_REMEMBERED = {"dpm++": 3, "unipc": 4, "pndm": 5}
"""Samplers that look back: so many steps until one is like the next."""


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsed run did.

    Attributes:
        entries: Everything that happened on the card.
        measured: Peaks of the stages, in exact bytes of tensors; transfers and caches of the steps rehearsed.
        steps: Denoising steps that the run has; those after the ones rehearsed are like the last of them.
    """

    entries: list[Entry]
    measured: Measured
    steps: int


def rehearse(
    request: Request,
    settings: Settings,
    components: Components,
    is_cpu: bool = False,
    should_stop: Callable[[], bool] | None = None,
    shapes: Shapes | None = None,
) -> Rehearsal:
    """Run the engine on a fake card.

    Args:
        request: What to make; pictures and clips in it are not opened, only that there are some matters.
        settings: How to make it.
        components: From :func:`tuner.forecast.components.fake_components`; nothing encoded is kept.
        is_cpu: The card to be is a CPU.
        should_stop: Asked between blocks, steps and chunks; True ends the rehearsal.
        shapes: What earlier rehearsals have worked out.

    Raises:
        BadInput: The request or the settings do not suit the model.
        Cancelled: ``should_stop`` said so.
    """
    times = len(make_scheduler(request.scheduler, components.scheduler_config, request.steps).timesteps)
    meter = ForecastMeter(card := FakeCard(is_cpu, shapes), should_stop)
    components.encodings.clear()
    generate(_short(request), settings, components, meter=meter)
    return Rehearsal(card.entries, meter.measured(), max(1, int(times * request.strength)))


def _short(request: Request) -> Request:
    """The request with blank pictures of the clip's size, and only as many steps as differ from each other."""
    blank = np.zeros((request.height, request.width, 3), np.uint8)
    given = {name: blank for name in PICTURES if getattr(request, name) is not None}
    if request.source_video is not None:
        given["source_video"] = np.broadcast_to(blank, (request.frames, *blank.shape))
    steps = math.ceil(_STEPS_REMEMBERED.get(request.scheduler or "", _STEPS) / request.strength)
    return request.replace(steps=min(request.steps, steps), **given)
