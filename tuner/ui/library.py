"""The presets a person can choose: those that ship with the project, and their own under the data directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import BadInput
from tuner.presets import Preset as Preset
from tuner.presets import PresetRequest, dump_preset, read_preset, save_preset, shipped_presets
from tuner.request import Request
from tuner.settings import Settings

_NAME = re.compile(r"[^\W_][\w .+()-]{0,59}")
_KEPT = ("width", "height", "frames", "fps", "steps", "guidance", "scheduler", "num_clips")
_NAME_ALLOWED = "1 to 60 letters, digits, spaces and . _ + - ( ), starting with a letter or digit"


@dataclass(frozen=True)
class Entry:
    """A preset in the menu.

    Attributes:
        key: What identifies it: its file name without the ending, after ``shipped/`` or ``own/``.
        name: Its name for a person.
        path: Its file.
        own: Whether the person saved it, and may delete it.
    """

    key: str
    name: str
    path: Path
    own: bool


class Library:
    """Shipped and own presets, read from the disk each time: a file put there is there.

    Args:
        data_dir: Where this user's data lives; own presets are under ``presets``.
    """

    def __init__(self, data_dir: Path) -> None:
        self.own_dir = data_dir / "presets"

    def entries(self) -> list[Entry]:
        """Every readable preset, the shipped ones first."""
        shipped = [(path, False) for path in shipped_presets()]
        own = [(path, True) for path in sorted(self.own_dir.glob("[!.]*.toml"))]
        found = []
        for path, is_own in shipped + own:
            try:
                name = read_preset(path).name
            except BadInput:
                continue  # the command line's `presets check` says what is wrong with it
            found.append(Entry(f"{'own' if is_own else 'shipped'}/{path.stem}", name, path, is_own))
        return found

    def find(self, key: str) -> Entry:
        """The entry of that key, or of that file name without ending.

        Raises:
            BadInput: There is none.
        """
        entries = self.entries()
        for entry in entries:
            if key in (entry.key, entry.path.stem):
                return entry
        raise BadInput("preset", key, ", ".join(entry.path.stem for entry in entries) or "none is there")

    def read(self, key: str) -> Preset:
        """The preset of an entry.

        Raises:
            BadInput: There is no such entry, or its file is not right.
        """
        return read_preset(self.find(key).path)

    def text(self, key: str) -> str:
        """What the preset says, as TOML."""
        return dump_preset(self.read(key))

    def save(
        self, name: str, settings: Settings, *, model: str, gpu: str, request: PresetRequest | None = None
    ) -> Entry:
        """Save settings under a name of the person's own; one of that name is replaced.

        Args:
            name: Becomes the file's name.
            settings: The knobs.
            model: The model they are for.
            gpu: The device they were chosen on.
            request: Size and sampling defaults to keep with them.

        Raises:
            BadInput: The name cannot be a file's name, is a shipped preset's, or the place is not writable.
        """
        name = " ".join(name.split())
        if not _NAME.fullmatch(name):
            raise BadInput("preset_name", name, _NAME_ALLOWED)
        if name in {path.stem for path in shipped_presets()}:
            raise BadInput("preset_name", name, "a name that no shipped preset has")
        path = self.own_dir / f"{name}.toml"
        try:
            self.own_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput("preset", self.own_dir, f"a place that can be written ({error.strerror})") from None
        save_preset(path, settings, name=name, model=model, gpu=gpu, request=request)
        return Entry(f"own/{name}", name, path, True)

    def delete(self, key: str) -> Entry:
        """Delete one of the person's own presets.

        Raises:
            BadInput: It is not their own, or is not there.
        """
        entry = self.find(key)
        if not entry.own:
            raise BadInput("preset", entry.name, "one of your own presets; shipped ones stay")
        entry.path.unlink(missing_ok=True)
        return entry


def preset_request(request: Request) -> PresetRequest:
    """The part of a request that a preset of settings keeps: size and sampling, not what the clip shows."""
    return PresetRequest(**{name: getattr(request, name) for name in _KEPT})
