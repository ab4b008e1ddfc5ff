"""Presets: settings as a small TOML file that a person can read, share and check.

A preset has up to five tables: ``[preset]`` says what it is, ``[settings]`` holds the knobs, ``[request]``
the size it was made for, ``[loras]`` the files merged into the model, ``[measured]`` what it cost. A clip
carries its own preset in its ``comment`` metadata.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import tomlkit
from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from tomlkit.items import Table

from tuner.checked import Checked
from tuner.errors import BadInput
from tuner.request import Request, Scheduler
from tuner.settings import GIB, KNOBS, Settings

SCHEMA = 1
MAX_BYTES = 64 * 1024
SHIPPED = Path(__file__).resolve().parent.parent / "presets"

_TABLES = ("preset", "settings", "request", "loras", "measured")
_MAX_LORA_WEIGHT = 10.0
_MAX_NAME_CHARACTERS = 100
_CLIP_MARK = b"ftyp"
_NO_PRESET_IN_CLIP = "an mp4 made by EasyAnimate Tuner, or a preset file (.toml)"


def _one_line(value: str, info: ValidationInfo) -> str:
    if len(value) > _MAX_NAME_CHARACTERS or not value.isprintable():
        raise BadInput(
            info.field_name or "text", value, f"one printable line of at most {_MAX_NAME_CHARACTERS} characters"
        )
    return value


def _not_negative(value: float, info: ValidationInfo) -> float:
    if value < 0:
        raise BadInput(info.field_name or "number", value, "0 or more")
    return value


def _lora_weights(value: dict[str, float]) -> dict[str, float]:
    for file, weight in value.items():
        if abs(weight) > _MAX_LORA_WEIGHT:
            limit = _MAX_LORA_WEIGHT
            raise BadInput(f"loras.{file}", weight, f"-{limit:g} to {limit:g}")
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Bytes = Annotated[int, AfterValidator(_not_negative)]
Seconds = Annotated[float, AfterValidator(_not_negative)]


class PresetRequest(Checked):
    """What of a request a preset remembers: everything but pictures and source clip; None leaves the default."""

    prompt: str | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    scheduler: Scheduler | None = None
    noise_aug_strength: float | None = None
    num_clips: int | None = None

    @model_validator(mode="after")
    def _as_a_request_allows(self) -> Self:
        Request(**self.given)
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The values that are set, by the name of their request field."""
        return {name: value for name, value in dict(self).items() if value is not None}

    @classmethod
    def of(cls, request: Request) -> Self:
        """Everything of ``request`` that a preset can hold."""
        return cls(**{name: getattr(request, name) for name in cls.model_fields})


class PresetMeasured(Checked):
    """What a run with these settings cost, and on which machine."""

    peak_allocated_bytes: Bytes | None = None
    peak_reserved_bytes: Bytes | None = None
    seconds: Seconds | None = None
    machine: Line | None = None

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Self:
        """The part of a run's ``measured`` object that a preset remembers."""
        return cls(**{name: measured[name] for name in cls.model_fields if measured.get(name) is not None})


class Preset(Checked):
    """Settings with a name, the model they are for, and what was measured.

    Attributes:
        name: Title for a person.
        model: Name or folder of the model, empty for any.
        gpu: The card it was made for, empty for any.
        settings: The knobs.
        request: Size and sampling defaults.
        loras: LoRA files merged into the transformer, and how much of each.
        measured: What it cost; empty when it was never run.

    Raises:
        BadInput: A value is not allowed.
    """

    name: Line
    model: Annotated[str, Field(max_length=4096)] = ""
    gpu: Line = ""
    settings: Settings = Settings()
    request: PresetRequest = PresetRequest()
    loras: Annotated[dict[str, float], AfterValidator(_lora_weights)] = Field(default_factory=dict)
    measured: PresetMeasured = PresetMeasured()


def shipped_presets() -> list[Path]:
    """The preset files that come with the project, in the order of their names."""
    return sorted(SHIPPED.glob("*.toml"))


def load_preset(path: str | Path) -> Settings:
    """The settings of a preset file, or of the clip that was made with them.

    Raises:
        BadInput: As :func:`read_preset`.
    """
    return read_preset(path).settings


def read_preset(path: str | Path) -> Preset:
    """The preset in a ``.toml`` file, or the one an ``.mp4`` of this project carries.

    Raises:
        BadInput: The file cannot be read, is larger than 64 KiB, is no TOML, or holds an unknown key, a
            value that is not allowed, or a newer schema.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise BadInput("preset", path, "an existing preset file (.toml) or clip (.mp4)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadInput("preset", path, f"a file that can be read ({error})") from None
    if data[4:8] == _CLIP_MARK:
        return parse_preset(_comment_of(path))
    if path.suffix.lower() == ".mp4":
        raise BadInput("preset", path.name, _NO_PRESET_IN_CLIP)
    if len(data) > MAX_BYTES:
        raise BadInput("preset", path.name, f"a file of at most {MAX_BYTES // 1024} KiB")
    try:
        return parse_preset(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput("preset", path.name, f"UTF-8 text (byte {error.start} is not)") from None


def _comment_of(clip: Path) -> str:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(clip)) as container:
            comment = container.metadata.get("comment", "")
    except (FFmpegError, OSError, ValueError):
        raise BadInput("preset", clip.name, _NO_PRESET_IN_CLIP) from None
    if "[preset]" not in comment:
        raise BadInput("preset", clip.name, _NO_PRESET_IN_CLIP)
    return comment


def parse_preset(text: str) -> Preset:
    """The preset that ``text`` spells in TOML.

    Raises:
        BadInput: Not TOML, too long, or an unknown key, a value that is not allowed, or a newer schema; the
            key is named with its table, as in ``settings.chunk_size``.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise BadInput("preset", text, f"at most {MAX_BYTES // 1024} KiB")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput("preset", text, f"TOML ({error})") from None
    for name, table in tables.items():
        if name not in _TABLES:
            raise BadInput(name, table, f"no such table; one of {', '.join(_TABLES)}")
        if not isinstance(table, dict):
            raise BadInput(name, table, f"a table [{name}]")
    head = dict(tables.get("preset", {}))
    _check_schema(head.pop("schema", None))
    if unknown := [key for key in head if key not in ("name", "model", "gpu")]:
        raise BadInput(f"preset.{unknown[0]}", head[unknown[0]], "no such key; one of name, schema, model, gpu")
    parts = {
        "settings": _checked(Settings, "settings", tables),
        "request": _checked(PresetRequest, "request", tables),
        "loras": tables.get("loras", {}),
        "measured": _checked(PresetMeasured, "measured", tables),
    }
    return _checked(Preset, "preset", {"preset": {**head, **parts}})


def _check_schema(schema: object) -> None:
    if schema is None:
        raise BadInput("preset.schema", "nothing", f"this key is required: schema = {SCHEMA}")
    if type(schema) is int and schema > SCHEMA:
        raise BadInput("preset.schema", schema, f"{SCHEMA}; this file is from a newer EasyAnimate Tuner")
    if type(schema) is not int or schema != SCHEMA:
        raise BadInput("preset.schema", schema, str(SCHEMA))


_Part = TypeVar("_Part", bound=Checked)


def _checked(kind: type[_Part], table: str, tables: Mapping[str, Any]) -> _Part:
    try:
        return kind(**tables.get(table, {}))
    except BadInput as error:
        raise BadInput(f"{table}.{error.field}", error.value, error.allowed) from None


def dump_preset(preset: Preset) -> str:
    """``preset`` as TOML with a comment above each knob; :func:`parse_preset` gives it back."""
    document = tomlkit.document()
    document.add(
        "preset", _table({"name": preset.name, "schema": SCHEMA, "model": preset.model, "gpu": preset.gpu})
    )
    settings = tomlkit.table()
    for name, knob in KNOBS.items():
        settings.add(tomlkit.comment(f"{knob.help.en.split('. ')[0].rstrip('.')}. Allowed: {knob.allowed}."))
        settings.add(name, getattr(preset.settings, name))
    document.add("settings", settings)
    if preset.request.given:
        document.add("request", _table(preset.request.given))
    if preset.loras:
        document.add("loras", _table(preset.loras))
    measured = {name: value for name, value in dict(preset.measured).items() if value is not None}
    if measured:
        table = _table(measured)
        for name in measured:
            if name.endswith("_bytes"):
                table[name].comment(f"{measured[name] / GIB:.3f} GiB")
        document.add("measured", table)
    return tomlkit.dumps(document)


def _table(values: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    for key, value in values.items():
        table.add(key, value)
    return table


def save_preset(
    path: str | Path,
    settings: Settings,
    *,
    name: str = "",
    model: str = "",
    gpu: str = "",
    request: Request | PresetRequest | None = None,
    loras: Mapping[str, float] | None = None,
    measured: Mapping[str, Any] | PresetMeasured | None = None,
) -> None:
    """Write ``settings`` to ``path`` as a preset, whole or not at all.

    Args:
        path: The file to write; a file there is replaced.
        settings: The knobs.
        name: Title for a person; the file's name when empty.
        model: Name or folder of the model.
        gpu: The card it was made for.
        request: The request whose size and sampling become the preset's defaults.
        loras: LoRA files merged into the model, and how much of each.
        measured: ``measured`` of a run with these settings.

    Raises:
        BadInput: A value is not allowed, or the file cannot be written.
    """
    path = Path(path)
    preset = Preset(
        name=name or path.stem,
        model=model,
        gpu=gpu,
        settings=settings,
        request=PresetRequest.of(request) if isinstance(request, Request) else request or PresetRequest(),
        loras=dict(loras or {}),
        measured=PresetMeasured.of(measured) if isinstance(measured, Mapping) else measured or PresetMeasured(),
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(dump_preset(preset), encoding="utf-8", newline="\n")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise BadInput("preset", path, f"a place that can be written ({error.strerror})") from None
