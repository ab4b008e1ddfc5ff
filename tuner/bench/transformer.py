"""One denoising step of a model, side by side: ``tuner bench transformer``.

A step is one call of the transformer with both guidance branches. *stock* is diffusers' own forward with all
weights on the device, *group offloading* the same with diffusers' streaming of blocks, the others are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.bench.files import check_place
from tuner.bench.inputs import transformer_inputs
from tuner.bench.paper import step_on_paper
from tuner.bench.side_by_side import Part, measure
from tuner.bench.ways import transformer_ways
from tuner.models.load import load_model
from tuner.request import Request
from tuner.settings import KNOBS, Settings

_EVERYTHING = KNOBS["cache_capacity"].maximum
_RESIDENT = "tuned, resident"
TUNED = {
    _RESIDENT: Settings(cache_capacity=_EVERYTHING),
    "tuned, resident, batch 1": Settings(cache_capacity=_EVERYTHING, batch_size=1),
    "tuned, streamed": Settings(cache_capacity=0.0),
    "tuned, smallest": Settings(cache_capacity=0.0, batch_size=1, token_chunk=256, prefetch=0),
}


def run(
    *,
    model: str = "demo",
    width: int = 128,
    height: int = 128,
    frames: int = 49,
    rounds: int = 7,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a step every way and print the table.

    Args:
        model: Name or folder of the model.
        width: Pixels.
        height: Pixels.
        frames: Video frames.
        rounds: How often each way is timed.
        out: Also write the result there as JSON, and the table beside it as Markdown.

    Returns:
        The result: machine, versions, date, what is attainable, and one row per way.

    Raises:
        BadInput: The model is not there, a size is not allowed, or ``out`` cannot be written.
    """
    check_place(out)
    Request(prompt="", width=width, height=height, frames=frames)
    size = width, height, frames
    components = load_model(model)
    transformer, vae, device = components.transformer, components.vae, components.device
    inputs = transformer_inputs(transformer, vae, size, device, components.dtype)
    ways = transformer_ways(transformer, inputs, device, TUNED)
    part = Part("transformer", "denoise", True, step_on_paper(transformer, vae, size), _RESIDENT)
    return measure(part, ways, components, size, rounds, out)
