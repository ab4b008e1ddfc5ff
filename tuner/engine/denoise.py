"""The denoising loop: a scheduler of diffusers' around the transformer, with classifier-free guidance."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import diffusers
import torch
from torch import Tensor

from tuner.engine.placement import Placement
from tuner.errors import BadInput

_CLASSES = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "flow": "FlowMatchEulerDiscreteScheduler",
}
_FEWEST_PNDM_STEPS = 4
_FLOW_SHIFT = 1.0
_LEAST_SIGNAL = 1e-3


class Denoiser(Protocol):
    """A transformer, called like diffusers'."""

    def __call__(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_t5: Tensor | None = None,
        inpaint_latents: Tensor | None = None,
    ) -> Tensor: ...


def make_scheduler(name: str | None, config: dict[str, Any], steps: int) -> Any:
    """A diffusers scheduler with its timesteps set.

    Args:
        name: One of the request's schedulers; None takes the checkpoint's own.
        config: The checkpoint's scheduler configuration.
        steps: Denoising steps.

    Raises:
        BadInput: The model was not trained for this scheduler, or the scheduler cannot do so few steps.
    """
    own = {class_name: key for key, class_name in _CLASSES.items()}.get(config.get("_class_name", ""), "ddim")
    name = name or own
    if (name == "flow") != (own == "flow"):
        fitting = [key for key in _CLASSES if (key == "flow") == (own == "flow")]
        raise BadInput("scheduler", name, f"{', '.join(fitting)} with this model")
    if name == "pndm" and steps < _FEWEST_PNDM_STEPS:
        raise BadInput("steps", steps, f"{_FEWEST_PNDM_STEPS} or more with scheduler pndm")
    scheduler = getattr(diffusers, _CLASSES[name]).from_config(config)
    scheduler.set_timesteps(steps, **({"mu": _FLOW_SHIFT} if name == "flow" else {}))
    return scheduler


def starting_point(scheduler: Any, noise: Tensor, source: Tensor | None, strength: float) -> tuple[Tensor, Tensor]:
    """Where denoising begins.

    Args:
        scheduler: From :func:`make_scheduler`.
        noise: ``[B, 16, t, h, w]``.
        source: Latents of a clip to begin with, ``[1, 16, t, h, w]``; None begins with noise alone.
        strength: With a source, the part of the steps that are taken.

    Returns:
        The timesteps to take, and the latents to take them from.
    """
    times = scheduler.timesteps
    if source is None:
        return times, noise * getattr(scheduler, "init_noise_sigma", 1.0)
    skipped = len(times) - max(1, int(len(times) * strength))
    times = times[skipped:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    clips = source.expand_as(noise)
    mix = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
    first = times[:1].repeat(len(noise))
    return times, mix(clips, first, noise) if mix else scheduler.add_noise(clips, noise, first)


@torch.no_grad()
def denoise(
    transformer: Denoiser,
    scheduler: Any,
    timesteps: Tensor,
    latents: Tensor,
    states: tuple[Tensor, Tensor | None],
    inpaint: Tensor,
    guidance: float,
    generators: list[torch.Generator],
    placement: Placement,
    done: int = 0,
    after_step: Callable[[int, Tensor], None] | None = None,
    show: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run every step that is left.

    Args:
        transformer: Predicts for a batch.
        scheduler: From :func:`make_scheduler`.
        timesteps: Those to take, from :func:`starting_point`.
        latents: Where to begin, ``[B, 16, t, h, w]`` on the device.
        states: The text encoders' states: ``B`` for the prompt, before them ``B`` for the negative one if guided.
        inpaint: Mask and masked video ``[B, 17, t, h, w]`` on the device.
        guidance: Classifier-free guidance scale, used when there are two branches.
        generators: One per clip, of the noise that ancestral samplers add.
        placement: Copies the timesteps to the device, once.
        done: Steps that an earlier run took; ``latents`` are what it reached.
        after_step: Told of each step taken, 1 for the first there is, and of the latents after it.
        show: Likewise told of what the step makes of the clip at its end, from :func:`clean_latents`.

    Returns:
        Latents after the last step.
    """
    branches = len(states[0]) // len(latents)
    inpaint = torch.cat([inpaint] * branches)
    # The original rounds timesteps to the latents' dtype before they are embedded.
    times = placement.to_device(timesteps.to(latents.dtype))
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in takes else {}
    for index in range(done, len(timesteps)):
        time = timesteps[index]
        with placement.meter.step(index + 1, len(times)):
            noisy = torch.cat([latents] * branches)
            if hasattr(scheduler, "scale_model_input"):
                noisy = scheduler.scale_model_input(noisy, time)
            noise = transformer(noisy, times[index].expand(len(noisy)), *states, inpaint)
            if branches == 2:
                without, with_prompt = noise.chunk(2)
                noise = without + guidance * (with_prompt - without)
            latents = scheduler.step(noise, time, latents, return_dict=False, **extra)[0]
        if after_step:
            after_step(index + 1, latents)
        if show:
            show(index + 1, clean_latents(scheduler, time, noisy[: len(latents)], noise))
    return latents


def clean_latents(scheduler: Any, time: Tensor, noisy: Tensor, prediction: Tensor) -> Tensor:
    """What a prediction says the latents are without their noise.

    Args:
        scheduler: From :func:`make_scheduler`.
        time: The timestep.
        noisy: What the transformer saw, ``[B, 16, t, h, w]``.
        prediction: What it answered, the same shape.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        return noisy - float(time) / scheduler.config.num_train_timesteps * prediction
    signal = float(scheduler.alphas_cumprod[int(time)])
    kept, lost = signal**0.5, (1 - signal) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return kept * noisy - lost * prediction
    return (noisy - lost * prediction) / max(kept, _LEAST_SIGNAL)
