"""Everything that happens during a run, as one stream of frozen values.

The page, the store, the command line and the tests all read this stream; nobody asks the engine for a
number. ``at`` is always seconds since the run began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Stage = Literal["load", "encode text", "encode image", "denoise", "decode", "write"]
Direction = Literal["h2d", "d2h"]
Level = Literal["conditions", "weights", "features"]

STAGES: tuple[Stage, ...] = get_args(Stage)
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class StageStarted:
    """A stage of the run begins; the one before it has ended."""

    at: float
    stage: Stage


@dataclass(frozen=True)
class StepDone:
    """One denoising step has ended.

    Attributes:
        step: 1 for the first.
        steps: How many there will be.
        seconds: Duration of this step.
    """

    at: float
    step: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class MemorySample:
    """Bytes held at a moment.

    Attributes:
        allocated: Bytes in live device tensors (on the CPU the highest since the sample before).
        reserved: Bytes the device allocator holds.
        host_rss: Resident set size of the process.
    """

    at: float
    allocated: int
    reserved: int
    host_rss: int


@dataclass(frozen=True)
class Transferred:
    """Copies in one direction since the last such event."""

    at: float
    direction: Direction
    count: int
    bytes: int


@dataclass(frozen=True)
class CacheUsed:
    """Totals of one cache level since the run began; ``held_bytes`` is what it holds now."""

    at: float
    level: Level
    hits: int
    misses: int
    evictions: int
    held_bytes: int


@dataclass(frozen=True)
class Previewed:
    """What the clip looks like after a denoising step, in small pictures side by side.

    Attributes:
        step: 1 for the first.
        frames: How many pictures.
        webp: The strip as a WebP file, in base 64.
    """

    at: float
    step: int
    frames: int
    webp: str


@dataclass(frozen=True)
class FramesReady:
    """``done`` of ``total`` video frames are decoded."""

    at: float
    done: int
    total: int


@dataclass(frozen=True)
class Noticed:
    """Something the user should know that is no error."""

    at: float
    message: str


@dataclass(frozen=True)
class Finished:
    """The run is done.

    Attributes:
        measured: As ``measured`` in the JSON of ``tuner run``.
        video: Path of the mp4, if one was written.
    """

    at: float
    measured: dict[str, Any]
    video: str | None


@dataclass(frozen=True)
class Failed:
    """The run ended early.

    Attributes:
        status: ``cancelled``, ``out of memory``, ``crashed`` or ``failed``.
        message: One line for the user.
        suggestion: After ``out of memory``, the next smaller settings by knob, if there are any.
    """

    at: float
    status: str
    message: str
    suggestion: dict[str, Any] = field(default_factory=dict)


Event = (
    StageStarted
    | StepDone
    | MemorySample
    | Transferred
    | CacheUsed
    | Previewed
    | FramesReady
    | Noticed
    | Finished
    | Failed
)
OnEvent = Callable[[Event], None]

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}


def to_json(event: Event) -> dict[str, Any]:
    """``event`` as a JSON object with its class name under ``kind``."""
    return {"kind": type(event).__name__, **asdict(event)}


def from_json(values: dict[str, Any]) -> Event:
    """The event that :func:`to_json` wrote."""
    fields = dict(values)
    return _KINDS[fields.pop("kind")](**fields)
