"""The ``bench`` commands: each prints a table and ends with one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

bench = typer.Typer(help="Measure what the knobs do on this machine. Each ends with one line of JSON.")

Model = Annotated[str, typer.Option(help="Name or folder of the model.")]
Width = Annotated[int, typer.Option(help="Pixels.")]
Height = Annotated[int, typer.Option(help="Pixels.")]
Frames = Annotated[int, typer.Option(help="Video frames.")]
Steps = Annotated[int, typer.Option(help="Denoising steps.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each way is timed.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JSON there, a table beside it.")]
AsJson = Annotated[bool, typer.Option("--json", help="The table goes to stderr; only the JSON to stdout.")]


@bench.command()
def strategies(
    model: Model = "demo",
    width: Width = 128,
    height: Height = 128,
    frames: Frames = 49,
    steps: Steps = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each strategy.")] = 1,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Stock, chunked, cached and combined side by side: memory, seconds, transfers, difference from stock."""
    from tuner.bench.strategies import run

    size = {"width": width, "height": height, "frames": frames, "steps": steps}
    _told(as_json, lambda: run(model=model, **size, repeats=repeats, out=out))


@bench.command()
def transformer(
    model: Model = "demo",
    width: Width = 128,
    height: Height = 128,
    frames: Frames = 49,
    rounds: Rounds = 7,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """One denoising step by stock, diffusers' group offloading and tuned: seconds, FLOP/s, memory, transfers."""
    from tuner.bench.transformer import run

    _told(as_json, lambda: run(model=model, width=width, height=height, frames=frames, rounds=rounds, out=out))


@bench.command()
def vae(
    model: Model = "demo",
    width: Width = 128,
    height: Height = 128,
    frames: Frames = 49,
    rounds: Rounds = 3,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Decoding a clip by stock, diffusers' group offloading and tuned: seconds, FLOP/s, memory, transfers."""
    from tuner.bench.vae import run

    _told(as_json, lambda: run(model=model, width=width, height=height, frames=frames, rounds=rounds, out=out))


@bench.command()
def gpu(
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or with --tiny also cpu.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny models, to see that it runs.")] = False,
    limit_gib: Annotated[
        float | None, typer.Option(metavar="GIB", min=1, help="Hold no more, as on a smaller card.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="When to stop measuring.")] = 9.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write JSON there, row by row, a table beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A CUDA card with the real 7B model's shapes: seconds per step and per decoded clip, memory, transfers."""
    from tuner.bench.gpu import run

    _told(as_json, lambda: run(device=device, tiny=tiny, limit_gib=limit_gib, minutes=minutes, out=out))


@bench.command()
def metering(
    model: Model = "demo",
    width: Width = 128,
    height: Height = 128,
    frames: Frames = 49,
    steps: Steps = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JSON there.")] = None,
    as_json: AsJson = False,
) -> None:
    """What counting memory and telling events adds to the run time."""
    from tuner.bench.metering import run

    size = {"width": width, "height": height, "frames": frames, "steps": steps}
    _told(as_json, lambda: run(model=model, **size, repeats=repeats, out=out))


def _told(as_json: bool, run: Callable[[], dict[str, Any]]) -> None:
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        result = run()
    print(json.dumps(result))
