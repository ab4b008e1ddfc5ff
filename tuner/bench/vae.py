"""Decoding a clip, side by side: ``tuner bench vae``.

From latents on the device to frames on the host. *stock* is diffusers' own forward with all weights on the device,
*group offloading* the same with diffusers' streaming of leaves, the others are ours; these bring the weights anew
for every clip, which is part of their time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.bench.files import check_place
from tuner.bench.inputs import random_latents
from tuner.bench.paper import decode_on_paper
from tuner.bench.side_by_side import Part, measure
from tuner.bench.ways import decode_ways
from tuner.models.load import load_model
from tuner.request import Request
from tuner.settings import KNOBS, Settings

_EVERYTHING = KNOBS["cache_capacity"].maximum
_DEFAULT = "tuned, resident"
TUNED = {
    _DEFAULT: Settings(cache_capacity=_EVERYTHING),
    "tuned, resident, contiguous": Settings(cache_capacity=_EVERYTHING, layout="contiguous"),
    "tuned, resident, interleaved": Settings(cache_capacity=_EVERYTHING, layout="interleaved"),
    "tuned, spilled": Settings(cache_capacity=0.0),
    "tuned, smallest": Settings(cache_capacity=0.0, chunk_size=1),
}


def run(
    *,
    model: str = "demo",
    width: int = 128,
    height: int = 128,
    frames: int = 49,
    rounds: int = 3,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure decoding every way and print the table.

    Args:
        model: Name or folder of the model.
        width: Pixels.
        height: Pixels.
        frames: Video frames.
        rounds: How often each way is timed.
        out: Also write the result there as JSON, and the table beside it as Markdown.

    Returns:
        The result: machine, versions, date, what is attainable, and one row per way; ``speedup`` is how many times
        faster than stock the default settings decode.

    Raises:
        BadInput: The model is not there, a size is not allowed, or ``out`` cannot be written.
    """
    check_place(out)
    Request(prompt="", width=width, height=height, frames=frames)
    size = width, height, frames
    components = load_model(model)
    latents = random_latents(components.vae, size, components.device, components.dtype)
    ways = decode_ways(components.vae, latents, components.device, TUNED)
    part = Part("vae", "decode", False, decode_on_paper(components.vae, size), _DEFAULT)
    return measure(part, ways, components, size, rounds, out)
