"""The rows of ``tuner bench gpu``: each way of one part at one size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from torch import Tensor

from tuner.bench.difference import difference
from tuner.bench.foreseen import Foresight, with_errors
from tuner.bench.inputs import random_latents, transformer_inputs
from tuner.bench.paper import OnPaper, decode_on_paper, step_on_paper
from tuner.bench.rounds import DONE, Look, look
from tuner.bench.ways import OFFLOADED, STOCK, Way, decode_ways, transformer_ways
from tuner.settings import Settings

Size = tuple[int, int, int]
Part = Literal["denoise", "decode"]

NOT_REACHED = "not reached"
RESIDENT, STREAMED, SMALLEST = "tuned", "tuned, streamed", "tuned, smallest"
DENOISE = {
    RESIDENT: Settings(),
    "tuned, batch 1": Settings(batch_size=1),
    STREAMED: Settings(cache_capacity=0.0),
    SMALLEST: Settings(cache_capacity=0.0, batch_size=1, token_chunk=1024),
}
DECODE = {
    RESIDENT: Settings(),
    "tuned, interleaved": Settings(layout="interleaved"),
    "tuned, spilled": Settings(cache_capacity=0.0),
    SMALLEST: Settings(cache_capacity=0.0, chunk_size=1),
}
_SMALL_CHUNKS = Settings(batch_size=1, token_chunk=256, chunk_size=1, cache_capacity=0.0)
EQUALITY = {
    "default": Settings(),
    "small chunks": _SMALL_CHUNKS,
    "contiguous": Settings(layout="contiguous", token_chunk=0),
    "interleaved": Settings(layout="interleaved", chunk_size=2),
}
_TIMED_CALLS = 3
_CAUTIOUS_EFFICIENCY = 0.2
_LEAK_CALLS = 3


class Clock:
    """How much time is left."""

    def __init__(self, seconds: float) -> None:
        self._began, self._seconds = time.perf_counter(), seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def allows(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return self.elapsed + seconds < self._seconds


@dataclass
class Subject:
    """What is measured, where, and what is known of it so far.

    Attributes:
        transformer: On the host.
        vae: On the host.
        device: Computes.
        dtype: Of the weights.
        flops_per_second: What the device can do at best.
        clock: Says when to stop.
        seconds: Of stock's calls, and of the first way's where stock did not fit.
        outputs: Of the same calls, on the host: the latest only.
        foresight: Forecasts the rows; None on a card that no table knows.
    """

    transformer: EasyAnimateTransformer3DModel
    vae: AutoencoderKLMagvit
    device: torch.device
    dtype: torch.dtype
    flops_per_second: float
    clock: Clock
    seconds: dict[tuple[Part, Size], float] = field(default_factory=dict)
    outputs: dict[Part, Tensor] = field(default_factory=dict)
    foresight: Foresight | None = None


def equality_rows(subject: Subject, size: Size) -> Iterator[dict[str, Any]]:
    """Float32 on the card, without its shortcut of 10-bit factors: how far each setting is from stock."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        for part in ("denoise", "decode"):
            ways, _ = _ways(subject, part, size, EQUALITY)
            reference: Tensor | None = None
            for way in ways:
                if way.name == OFFLOADED:
                    continue
                found = look(way, subject.device, part, lambda seconds: False)
                if reference is None:
                    reference = found.output
                elif found.output is not None and reference is not None:
                    far = difference(found.output, reference).to_json()
                    yield {**_head("equality", size, way), "of": part, "status": found.status, "difference": far}


def part_rows(subject: Subject, part: Part, size: Size, peers: bool = False) -> Iterator[dict[str, Any]]:
    """Stock and each tuned way of one part; or, with ``peers``, only what diffusers offers besides stock."""
    ways, paper = _ways(subject, part, size, DENOISE if part == "denoise" else DECODE)
    if not peers:
        subject.outputs.clear()
    for way in ways:
        if (way.name == OFFLOADED) != peers:
            continue
        head = _head(part, size, way)
        expected = subject.seconds.get((part, size)) or paper.flops / (
            _CAUTIOUS_EFFICIENCY * subject.flops_per_second
        )
        foreseen = None
        if subject.foresight and subject.clock.allows(2 * expected) and way.name != OFFLOADED:
            foreseen = subject.foresight.of(part, size, way.name, way.settings)
        if not subject.clock.allows(2 * expected):
            yield {**head, "status": NOT_REACHED}
            continue
        found = look(way, subject.device, part, _while_time_allows(subject.clock, peers))
        if found.status != DONE:
            yield {**head, "status": found.status, "left_bytes": found.left_bytes, "forecast": foreseen}
            continue
        measured = _measured(subject, part, size, way, found, paper)
        yield {**head, **measured, "forecast": with_errors(foreseen, measured) if foreseen else None}


def leak_row(subject: Subject, size: Size) -> dict[str, Any]:
    """Device bytes more after each of a few whole lives of a runner than before the first."""
    ways, paper = _ways(subject, "denoise", size, DENOISE)
    way = next(way for way in ways if way.name == STREAMED)
    head = _head("leak", size, way)
    expected = subject.seconds.get(("denoise", size)) or paper.flops / (
        _CAUTIOUS_EFFICIENCY * subject.flops_per_second
    )
    if not subject.clock.allows(_LEAK_CALLS * expected):
        return {**head, "status": NOT_REACHED}
    looks = [look(way, subject.device, "denoise", lambda seconds: False) for _ in range(_LEAK_CALLS)]
    return {
        **head,
        "status": next((each.status for each in looks if each.status != DONE), DONE),
        "left_bytes_of_each": [each.left_bytes for each in looks],
        "left_bytes": sum(each.left_bytes for each in looks),
    }


def _while_time_allows(clock: Clock, once: bool) -> Callable[[Sequence[float]], bool]:
    def wants_more(seconds: Sequence[float]) -> bool:
        if not seconds:
            return True
        return not once and len(seconds) < _TIMED_CALLS and clock.allows(4 * seconds[-1])

    return wants_more


def _measured(subject: Subject, part: Part, size: Size, way: Way, found: Look, paper: OnPaper) -> dict[str, Any]:
    seconds, reserved = median(found.seconds), found.peak_reserved_bytes
    stock = subject.seconds.get((part, size)) if way.name != STOCK else seconds
    far = None
    if way.name == STOCK:
        subject.seconds[part, size] = seconds
        if found.output is not None:
            subject.outputs[part] = found.output
    elif found.output is not None and part in subject.outputs:
        far = difference(found.output, subject.outputs[part], clips=part == "decode").to_json()
    return {
        "status": DONE,
        "seconds": seconds,
        "seconds_of_each": found.seconds,
        "ratio": seconds / stock if stock else None,
        "flops": paper.flops,
        "flops_per_second": paper.flops / seconds,
        "of_attainable_flops": paper.flops / seconds / subject.flops_per_second,
        "peak_allocated_bytes": found.peak_allocated_bytes,
        "peak_reserved_bytes": reserved,
        "fragmentation": (reserved - found.peak_allocated_bytes) / reserved if reserved else 0.0,
        "first_call_transfers": found.first,
        "transfers": found.again,
        "uncounted_bytes": found.uncounted_bytes if way.counts_itself else None,
        "left_bytes": found.left_bytes,
        "difference": far,
    }


def _ways(subject: Subject, part: Part, size: Size, tuned: dict[str, Settings]) -> tuple[list[Way], OnPaper]:
    device, dtype, vae = subject.device, subject.dtype, subject.vae
    if part == "decode":
        return decode_ways(vae, random_latents(vae, size, device, dtype), device, tuned), decode_on_paper(
            vae, size
        )
    inputs = transformer_inputs(subject.transformer, vae, size, device, dtype)
    ways = transformer_ways(subject.transformer, inputs, device, tuned)
    return ways, step_on_paper(subject.transformer, vae, size)


def _head(part: str, size: Size, way: Way) -> dict[str, Any]:
    width, height, frames = size
    return {
        "part": part,
        "width": width,
        "height": height,
        "frames": frames,
        "way": way.name,
        "settings": way.settings.model_dump(mode="json") if way.settings else None,
    }
