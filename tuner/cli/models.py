"""``tuner models``: list them, look one through, convert it, download it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from tuner.errors import BadInput
from tuner.models.download import available
from tuner.models.registry import find_model, list_models

if TYPE_CHECKING:
    from tuner.models.check import Report

models = typer.Typer(help="The models that can be run.")

Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Also read .bin files (tensors only; nothing in them is run).")
]


def _use_models_dir(folder: Path | None) -> Path | None:
    """Look for models there, in this process and in the worker it starts."""
    if folder is not None:
        if not folder.expanduser().is_dir():
            raise BadInput("--models-dir", folder, "an existing folder")
        os.environ["TUNER_MODELS"] = str(folder.expanduser().absolute())
    return folder


ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir",
        metavar="DIR",
        callback=_use_models_dir,
        help="Where model folders are looked for first; TUNER_MODELS, or your data directory.",
    ),
]


@models.command("list")
def list_(models_dir: ModelsDir = None, as_json: Json = False) -> None:
    """Every model with a name, and whether it is installed."""
    found = list_models()
    if as_json:
        rows = [
            {
                "name": info.name,
                "title": info.title.en,
                "family": info.family,
                "path": str(info.path) if info.path else None,
                "parameters": info.parameters,
                "width": info.width,
                "height": info.height,
                "frames": info.frames,
                "steps": info.steps,
                "fps": info.fps,
            }
            for info in found
        ]
        print(json.dumps({"models": rows}))
        return
    for info in found:
        place = str(info.path) if info.path else "not installed"
        print(f"{info.name:24} {info.parameters / 1e6:8,.1f} M parameters  {info.title.en:36} {place}")


@models.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint folder, or the name of a model.")],
    allow_pickle: AllowPickle = False,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Look every tensor and file of a checkpoint through, without a GPU; exit 2 names what is wrong."""
    from tuner.models.check import check_model, hashed_bytes

    folder = find_model(path).folder()
    with _progress("hash", hashed_bytes(folder)) as on_bytes:
        report = check_model(folder, allow_pickle=allow_pickle, on_bytes=on_bytes)
    if as_json:
        print(json.dumps(_as_json(report)))
    else:
        _print(report)
    if report.problems:
        raise report.problems[0]


@models.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint folder, or the name of a model.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A folder that does not exist yet.")],
    allow_pickle: AllowPickle = False,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint in diffusers' layout, as safetensors of at most 5 GB; nothing is overwritten."""
    from tuner.models.convert import convert_model, tensor_bytes

    folder = find_model(source).folder()
    total = tensor_bytes(folder, allow_pickle)
    with _progress("convert", total) as on_bytes:
        written = convert_model(folder, target, allow_pickle=allow_pickle, on_bytes=on_bytes)
    print(json.dumps({"path": str(written), "tensor_bytes": total}) if as_json else f"{written}: {total:,} bytes")


@models.command()
def download(
    name: Annotated[str, typer.Argument(help="Name of a published model.")], models_dir: ModelsDir = None
) -> None:
    """Fetch a model into the Hugging Face cache; one that broke off goes on where it was."""
    print(available(find_model(name)))


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.problems,
        "path": str(report.path),
        "family": report.family,
        "parts": [
            {
                "name": part.name,
                "parameters": part.parameters,
                "bytes": part.nbytes,
                "files": part.files,
                "dtypes": list(part.dtypes),
            }
            for part in report.parts
        ],
        "verified_files": report.verified,
        "problems": [str(problem) for problem in report.problems],
    }


def _print(report: Report) -> None:
    family = f"EasyAnimate{report.family.upper()}" if report.family else "an unknown model"
    print(f"{report.path}: {family}")
    for part in report.parts:
        files = f"{part.files} file{'s' if part.files != 1 else ''}, {' '.join(part.dtypes)}"
        print(f"{part.name:16} {part.parameters:>16,} parameters {part.nbytes:>16,} bytes  {files}")
    for problem in report.problems[1:]:
        print(f"also: {problem}")
    if not report.problems:
        hashed = f"; {report.verified} files are the published ones" if report.verified else ""
        print(f"fine{hashed}")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, file=sys.stderr, disable=not total) as bar:
        yield bar.update
