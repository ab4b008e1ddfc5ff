"""``tuner presets``: list, check and show them. ``find_preset`` also serves ``tuner run --preset``."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated

import typer

from tuner.errors import BadInput
from tuner.presets import Preset, dump_preset, read_preset, shipped_presets
from tuner.runs.store import default_data_dir

presets = typer.Typer(help="Settings with a name: list, check and show them.")

Json = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


def _named() -> dict[str, Path]:
    """Preset files by the name a person can give: the shipped ones, then those saved on the page."""
    own = sorted((default_data_dir() / "presets").glob("[!.]*.toml"))
    return {path.stem: path for path in [*own, *shipped_presets()]}


def find_preset(name_or_path: str) -> tuple[Path, Preset]:
    """A preset by its file (``.toml``, or an ``.mp4`` that carries one) or its name.

    Raises:
        BadInput: There is none, or it is not a valid preset.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path, read_preset(path)
    named = _named()
    if name_or_path not in named:
        close = difflib.get_close_matches(name_or_path, named, n=3, cutoff=0.4) or list(named)
        raise BadInput("preset", name_or_path, f"a preset file, or one of {', '.join(close)}")
    return named[name_or_path], read_preset(named[name_or_path])


@presets.command("list")
def list_(as_json: Json = False) -> None:
    """Shipped presets and those saved on the page."""
    rows = []
    for name, path in sorted(_named().items()):
        try:
            preset = read_preset(path)
        except BadInput as error:
            rows.append({"name": name, "title": "", "model": "", "path": str(path), "error": str(error)})
        else:
            rows.append(
                {"name": name, "title": preset.name, "model": preset.model, "path": str(path), "error": ""}
            )
    if as_json:
        print(json.dumps({"presets": rows}))
        return
    for row in rows:
        print(f"{row['name']:28} {row['error'] or row['title']}")


@presets.command()
def check(
    file: Annotated[str, typer.Argument(metavar="F", help="A preset file, or a clip.")], as_json: Json = False
) -> None:
    """Say whether a preset is valid; exit 2 names the key, the value and what is allowed."""
    path, preset = find_preset(file)
    if as_json:
        print(json.dumps({"ok": True, "path": str(path), "name": preset.name, "model": preset.model}))
    else:
        print(f"{path}: fine ({preset.name})")


@presets.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a preset, a preset file, or a clip.")], as_json: Json = False
) -> None:
    """Print a preset."""
    path, preset = find_preset(name)
    if as_json:
        print(json.dumps(preset.model_dump(mode="json", exclude_none=True)))
    else:
        print(path.read_text(encoding="utf-8-sig") if path.suffix == ".toml" else dump_preset(preset), end="")
