"""What a CUDA card does with the real 7B model's shapes: ``tuner bench gpu``.

Weights are invented on the card, so no checkpoint is needed, and the runners alone are used, so that a bare
checkout will do under PyTorch 2.11 with diffusers, transformers and pydantic::

    PYTHONPATH=. python -m tuner.bench.gpu --limit-gib 24 --out gpu.json

Beside each row stands how far the forecast of the same call was off, on a card that :mod:`tuner.hardware` knows.
The most important rows come first and each is written as soon as it is measured; what the time does not allow is
written as ``not reached``, and what the card cannot hold as ``out of memory``. Calls are timed after one that
warms up and counts copies. ``--device cpu --tiny`` runs the same rows with tiny models where there is no card.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tuner.bench.bars import bars
from tuner.bench.card import cap_memory, this_card
from tuner.bench.files import check_place, write_result
from tuner.bench.foreseen import Foresight
from tuner.bench.gpu_rows import Clock, Subject, equality_rows, leak_row, part_rows
from tuner.bench.invented import invented_transformer, invented_vae
from tuner.bench.machine import these_versions, today
from tuner.bench.rates import attainable_rates
from tuner.bench.reports import gpu_report
from tuner.errors import BadInput, TunerError
from tuner.hardware import CARDS, card_named
from tuner.models.configs import TRANSFORMERS, VAE
from tuner.settings import GIB

_MODEL = "easyanimate-v5-7b-inp"
_SMALL_TRANSFORMER = {**TRANSFORMERS[_MODEL], "num_layers": 2, "mmdit_layers": 1, "num_attention_heads": 4}
_SMALL_VAE = {**VAE, "block_out_channels": [32, 64, 64, 64], "norm_num_groups": 16, "layers_per_block": 1}
_SMALL_SIZE, _TINY_SIZE = (160, 96, 9), (48, 32, 5)


@dataclass(frozen=True)
class Models:
    """What is measured.

    Attributes:
        name: Of the model whose shapes these are.
        transformer: Its config.
        vae: Its config.
        sizes: Width, height, frames; the most important first.
        small_size: For the comparison in float32.
    """

    name: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    sizes: tuple[tuple[int, int, int], ...]
    small_size: tuple[int, int, int]


REAL = Models(_MODEL, TRANSFORMERS[_MODEL], VAE, ((1024, 1024, 49), (672, 384, 49), (1344, 768, 49)), _SMALL_SIZE)
TINY = Models("tiny", _SMALL_TRANSFORMER, _SMALL_VAE, (_TINY_SIZE, (32, 32, 5)), _TINY_SIZE)


@dataclass
class Report:
    """The result as far as it goes, written whenever it grows."""

    result: dict[str, Any]
    out: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """One more row."""
        self.rows.append(row)
        took = f"{row['seconds']:.3f} s" if "seconds" in row else row["status"]
        size = f"{row['width']}x{row['height']}x{row['frames']}"
        print(f"{row['part']} {size}, {row['way']}: {took}", file=sys.stderr, flush=True)
        self.write()

    def write(self) -> dict[str, Any]:
        """The result with the rows there are."""
        result = {**self.result, "bars": bars(self.rows), "rows": self.rows}
        if self.out:
            write_result(self.out, result)
        return result


def run(
    *,
    device: str = "cuda",
    tiny: bool = False,
    limit_gib: float | None = None,
    minutes: float = 9.0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the card and print the table.

    Args:
        device: ``cuda``, ``cuda:N``, or with ``tiny`` also ``cpu``.
        tiny: Use tiny models, to see that it runs.
        limit_gib: Let PyTorch hold no more than this, as on a smaller card.
        minutes: When to stop measuring.
        out: Write the result there as JSON, row by row, and in the end the table beside it as Markdown.

    Returns:
        The result: the card, versions, date, what is attainable, the rows, and which bars they reach.

    Raises:
        BadInput: There is no such card, or ``out`` cannot be written.
    """
    clock = Clock(minutes * 60)
    check_place(out)
    where = _checked(device, tiny)
    models, dtype = (TINY if tiny else REAL), (torch.bfloat16 if where.type == "cuda" else torch.float32)
    limit_bytes = int(limit_gib * GIB) if limit_gib else None
    if where.type == "cuda":
        torch.cuda.set_device(where)
        if limit_bytes:
            cap_memory(where, limit_bytes)
    report = Report(
        {
            "bench": "gpu",
            "command": _command(device, tiny, limit_gib, minutes),
            "date": today(),
            "card": this_card(where, limit_bytes),
            "versions": these_versions(),
            "model": models.name,
            "precision": str(dtype).removeprefix("torch."),
            "attainable": attainable_rates(where, dtype),
        },
        out,
    )
    report.write()
    foresight = _foresight(models, where, dtype, limit_bytes)
    for row in _rows(models, where, dtype, report.result["attainable"]["flops_per_second"], clock, foresight):
        report.add(row)
    report.result["seconds"] = clock.elapsed
    result = report.write()
    text = gpu_report(result)
    print(text)
    if out:
        write_result(out, result, text)
    return result


def _foresight(
    models: Models, device: torch.device, dtype: torch.dtype, limit_bytes: int | None
) -> Foresight | None:
    """The forecast of this card's rows, where the table of cards has it."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card = card_named(properties.name, properties.total_memory)
    else:
        card = CARDS["cpu"]
    return Foresight(models.transformer, models.vae, dtype, card, limit_bytes) if card else None


def _rows(
    models: Models,
    device: torch.device,
    dtype: torch.dtype,
    flops_per_second: float,
    clock: Clock,
    foresight: Foresight | None,
) -> Iterator[dict[str, Any]]:
    """All rows, the most important first."""
    small = Subject(
        invented_transformer(_SMALL_TRANSFORMER, device, torch.float32),
        invented_vae(_SMALL_VAE, device, torch.float32),
        device,
        torch.float32,
        flops_per_second,
        clock,
    )
    yield from equality_rows(small, models.small_size)
    subject = Subject(
        invented_transformer(models.transformer, device, dtype),
        invented_vae(models.vae, device, dtype),
        device,
        dtype,
        flops_per_second,
        clock,
        foresight=foresight,
    )
    for size in models.sizes:
        yield from part_rows(subject, "denoise", size)
        yield from part_rows(subject, "decode", size)
    yield leak_row(subject, models.sizes[1])
    yield from part_rows(subject, "denoise", models.sizes[1], peers=True)
    yield from part_rows(subject, "decode", models.sizes[1], peers=True)


def _checked(device: str, tiny: bool) -> torch.device:
    trial = "try it out with --device cpu --tiny"
    try:
        where = torch.device(device)
    except RuntimeError:
        raise BadInput("--device", device, "cuda, cuda:N, or cpu with --tiny") from None
    if where.type == "cpu" and not tiny:
        raise BadInput("--device", device, f"a CUDA card; {trial}")
    if where.type not in ("cpu", "cuda"):
        raise BadInput("--device", device, "cuda, cuda:N, or cpu with --tiny")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise BadInput("--device", device, f"a CUDA card that PyTorch sees, of which there is none here; {trial}")
    return torch.device("cuda", where.index or 0) if where.type == "cuda" else where


def _command(device: str, tiny: bool, limit_gib: float | None, minutes: float) -> str:
    limit = f" --limit-gib {limit_gib:g}" if limit_gib else ""
    return f"tuner bench gpu --device {device}{' --tiny' if tiny else ''}{limit} --minutes {minutes:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from a bare checkout, without the packages that ``tuner bench gpu`` needs for its command line."""
    parser = argparse.ArgumentParser(prog="python -m tuner.bench.gpu", description="Measure a CUDA card.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it runs")
    parser.add_argument("--limit-gib", type=float, help="as on a card with so much memory")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to stop measuring")
    parser.add_argument("--out", type=Path, help="also write JSON there, row by row, and a table beside it")
    given = vars(parser.parse_args(arguments))
    try:
        print(json.dumps(run(**given)))
    except TunerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    began = time.perf_counter()
    code = main()
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    sys.exit(code)
