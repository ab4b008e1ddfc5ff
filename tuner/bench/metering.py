"""What looking costs: ``tuner bench metering``.

The same denoising and decoding, alternately without the meter, with device memory counted, and with every
event told besides. The three are run in turn and each is compared with the unmetered run of its own round, so
that a machine that slows down slows all of them; the medians of those ratios are the result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tuner.bench.files import check_place, write_result
from tuner.bench.inputs import Inputs, transformer_inputs
from tuner.bench.machine import Others, these_versions, this_machine, today
from tuner.engine import TransformerRunner, VaeRunner
from tuner.meter.events import Event, to_json
from tuner.meter.meter import Meter
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.request import Request
from tuner.settings import Settings

UNMETERED, COUNTED, TOLD = "unmetered", "memory counted", "memory counted, events told"
BAR = {"cpu": 1.10, "cuda": 1.03}


def run(
    *,
    model: str = "demo",
    width: int = 128,
    height: int = 128,
    frames: int = 49,
    steps: int = 8,
    repeats: int = 5,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure and print what metering costs.

    Args:
        model: Name or folder of the model.
        width: Pixels.
        height: Pixels.
        frames: Video frames.
        steps: Denoising steps.
        repeats: Rounds, after one that is not counted.
        out: Also write the result there as JSON.

    Returns:
        The result; ``median_ratio`` holds seconds with metering / seconds without.

    Raises:
        BadInput: The model is not there, a size is not allowed, or ``out`` cannot be written.
    """
    check_place(out)
    request = Request(prompt="a portrait", width=width, height=height, frames=frames, steps=steps, seed=1)
    components = load_model(model)
    with Others() as others:
        seconds = measure(request, components, repeats)
    ratios = {
        name: median(one / base for one, base in zip(each, seconds[UNMETERED], strict=True))
        for name, each in seconds.items()
        if name != UNMETERED
    }
    bar = BAR[components.device.type]
    result = {
        "bench": "metering",
        "command": f"tuner bench metering --model {components.name} --width {width} --height {height}"
        f" --frames {frames} --steps {steps} --repeats {repeats}",
        "date": today(),
        "machine": this_machine(components.device),
        "versions": these_versions(),
        "other_programs_cores": others.cores,
        "request": {"width": width, "height": height, "frames": frames, "steps": steps},
        "repeats": repeats,
        "seconds": seconds,
        "median_ratio": ratios,
        "allowed_ratio": bar,
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio - 1:+.1%} run time (at most {bar - 1:+.0%})")
    print(f"Other programs used {others.cores:.1f} of {os.cpu_count()} cores meanwhile.")
    if out:
        write_result(out, result)
    return result


def measure(request: Request, components: Components, repeats: int) -> dict[str, list[float]]:
    """Seconds of each round, by how much was metered."""
    size = request.width, request.height, request.frames
    inputs = transformer_inputs(components.transformer, components.vae, size, components.device, components.dtype)
    seconds: dict[str, list[float]] = {name: [] for name in _WAYS}
    for turn in range(repeats + 1):
        for name, metered in _WAYS.items():
            with metered(components.device) as meter:
                took = _denoise_and_decode(request, components, meter, inputs)
            print(f"{f'round {turn}' if turn else 'warm-up'}, {name}: {took:.2f} s", file=sys.stderr)
            if turn:
                seconds[name].append(took)
    return seconds


def _send(event: Event) -> None:
    """What the page's worker does with an event, short of the pipe."""
    json.dumps(to_json(event))


_WAYS: dict[str, Callable[[torch.device], AbstractContextManager[Meter]]] = {
    UNMETERED: lambda device: nullcontext(Meter(device)),
    COUNTED: Meter,
    TOLD: lambda device: Meter(device, _send),
}


def _denoise_and_decode(request: Request, components: Components, meter: Meter, inputs: Inputs) -> float:
    """Nearly all of a generation, by the runners alone; its wall seconds."""
    settings, device = Settings(), components.device
    latents = inputs.latents
    began = time.perf_counter()
    with meter.stage("denoise"):
        transformer = TransformerRunner(components.transformer, settings, device, meter=meter)
        for step in range(request.steps):
            with meter.step(step + 1, request.steps):
                latents = latents - inputs.apply(transformer, latents) / request.steps
        transformer.close()
    with meter.stage("decode"):
        done = 0
        for chunk in VaeRunner(components.vae, settings, device, meter=meter).decode(latents[:1]):
            done += chunk.shape[2]
            meter.frames_ready(done, request.frames)
    return time.perf_counter() - began
