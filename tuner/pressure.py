"""When memory runs out: what was asked for, what was free, and the next smaller setting that makes the same clip.

Allocators say these things in the text of their errors only. Nothing here needs torch: the page's server and
the command line read it too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from tuner.errors import OutOfMemory
from tuner.meter.events import Stage
from tuner.request import Request
from tuner.settings import GIB, KNOBS, Settings

Changes = dict[str, int | float | str]
"""Knobs and the values they are to get."""

_CAPACITY_STEP_GIB = 0.25
_SIDE_STEP = 16
_SMALLER_SIDE = 0.75

# What allocators write: CUDA's and the CPU's of PyTorch, CUDA's libraries, the C++ library.
_SIGNS = re.compile(r"out of memory|can't allocate memory|ALLOC(ATION)?_FAILED|bad_alloc", re.IGNORECASE)
_AMOUNT = r"([\d.]+) ?(bytes|KiB|MiB|GiB|TiB|PiB)"
_UNITS = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": GIB, "TiB": 1024 * GIB, "PiB": 1024**2 * GIB}
_ASKED = re.compile(rf"(?:tr(?:ied|ying) to allocate|Unable to allocate) {_AMOUNT}", re.IGNORECASE)
_FREE = re.compile(rf"of which {_AMOUNT} is free")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an allocator's; the CPU's has no class of its own."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_SIGNS.search(str(error))))


def asked_and_free(message: str) -> tuple[int | None, int | None]:
    """Bytes that an allocator's ``message`` says were asked for and were free; None where it does not say."""
    return _bytes(_ASKED.search(message)), _bytes(_FREE.search(message))


def _bytes(found: re.Match[str] | None) -> int | None:
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def free_host_bytes() -> int:
    """Memory that this process can still get from the host, its own limit counted in."""
    free = psutil.virtual_memory().available
    if sys.platform == "win32":
        return free
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return free
    return max(0, min(free, limit - psutil.Process().memory_info().vms))


def next_smaller(stage: Stage, settings: Settings, request: Request, held_bytes: int | None = None) -> Changes:
    """The lossless change of settings that next lowers what ``stage`` needs; empty at the smallest settings.

    Args:
        stage: Where memory ran out.
        settings: The knobs as they were.
        request: What was to be made; a knob is lowered from where it has an effect on that.
        held_bytes: What caches held on the device in this stage; None takes all that they may.
    """
    if stage == "load":
        return {}
    if settings.engine == "stock":
        return {"engine": "tuned"}
    ladder: dict[Stage, tuple[Changes, ...]] = {
        "encode text": (_less_cache(settings, held_bytes, 0), _no_prefetch(settings)),
        "encode image": (
            _shorter_chunks(settings, request),
            _less_cache(settings, held_bytes, 0.5),
            {"layout": "chunked"} if settings.layout == "contiguous" else {},
        ),
        "denoise": (
            _smaller_batches(settings, request),
            _fewer_tokens(settings, request),
            _less_cache(settings, held_bytes, 0.5),
            _no_prefetch(settings),
        ),
        "decode": (
            _shorter_chunks(settings, request),
            _less_cache(settings, held_bytes, 0.5),
            {"layout": "chunked"} if settings.layout == "contiguous" else {},
        ),
        "write": ({"workers": 1} if settings.workers > 1 else {},),
    }
    return next((changes for changes in ladder[stage] if changes), {})


def _shorter_chunks(settings: Settings, request: Request) -> Changes:
    return _lower("chunk_size", settings.chunk_size, request.frames)


def _fewer_tokens(settings: Settings, request: Request) -> Changes:
    tokens = ((request.frames - 1) // 4 + 1) * (request.height // 16) * (request.width // 16)
    return _lower("token_chunk", settings.token_chunk, tokens)


def _lower(knob: str, value: int, everything: int) -> Changes:
    """The next smaller choice of a knob whose 0 means everything, as more than everything does too."""
    now = min(value or everything, everything)
    smaller = [choice for choice in KNOBS[knob].choices if isinstance(choice, int) and 0 < choice < now]
    return {knob: max(smaller)} if smaller else {}


def _smaller_batches(settings: Settings, request: Request) -> Changes:
    samples = min(settings.batch_size, request.num_clips * (2 if request.guidance > 1 else 1))
    return {"batch_size": samples // 2} if samples > 1 else {}


def _less_cache(settings: Settings, held_bytes: int | None, share: float) -> Changes:
    held = settings.cache_bytes if held_bytes is None else min(settings.cache_bytes, held_bytes)
    if not held:
        return {}
    return {"cache_capacity": held * share / GIB // _CAPACITY_STEP_GIB * _CAPACITY_STEP_GIB}


def _no_prefetch(settings: Settings) -> Changes:
    return {"prefetch": 0} if settings.prefetch else {}


def smaller_size(request: Request) -> tuple[int, int] | None:
    """Width and height of the next smaller clip, about three quarters of each; None when there is none."""
    sides = request.width, request.height
    width, height = (max(_SIDE_STEP, int(side * _SMALLER_SIDE) // _SIDE_STEP * _SIDE_STEP) for side in sides)
    return (width, height) if (width, height) != sides else None


def readable(amount: int) -> str:
    """Bytes as a person reads them."""
    unit = "GiB" if amount >= GIB else "MiB" if amount >= _UNITS["MiB"] else "KiB"
    return f"{amount / _UNITS[unit]:.2f} {unit}"


def assignments(changes: Changes) -> str:
    """Changes of settings as a person reads them: ``chunk_size 2``."""
    return ", ".join(f"{name} {_text(value)}" for name, value in changes.items())


def as_flags(changes: Changes) -> str:
    """Changes of settings as the command line takes them: ``--set chunk_size=2``."""
    return " ".join(f"--set {name}={_text(value)}" for name, value in changes.items())


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def shortage(
    error: BaseException,
    stage: Stage,
    settings: Settings,
    request: Request,
    held_bytes: int | None = None,
    free_bytes: int | None = None,
) -> OutOfMemory:
    """An allocator's error as one line that helps.

    Args:
        error: What the allocator raised.
        stage: Where.
        settings: The knobs as they were.
        request: What was to be made.
        held_bytes: As :func:`next_smaller` takes it.
        free_bytes: What was free, where the error does not say.
    """
    asked, free = asked_and_free(str(error))
    free = free_bytes if free is None else free
    changes = next_smaller(stage, settings, request, held_bytes)
    figures = [f"{readable(asked)} asked for" if asked is not None else ""]
    figures.append(f"{readable(free)} free" if free is not None else "")
    found = ", ".join(figure for figure in figures if figure)
    head = f"out of memory in stage {stage}" + (f": {found}" if found else "")
    return OutOfMemory(f"{head}; {_advice(stage, changes, request)}", stage, asked, free, changes)


def _advice(stage: Stage, changes: Changes, request: Request) -> str:
    if changes:
        return f"try {assignments(changes)}"
    if stage in ("load", "encode text"):
        return "no setting lowers this: close other programs or take a smaller model"
    size = smaller_size(request)
    if size is None:
        return "no setting and no size is smaller: close other programs or take a smaller model"
    return f"these are the smallest settings: make a smaller clip, such as {size[0]}x{size[1]}"


@contextmanager
def relieved(
    settings: Settings,
    request: Request,
    stage: Callable[[], Stage] = lambda: "load",
    held_bytes: Callable[[], int | None] = lambda: None,
    free_bytes: Callable[[], int | None] = free_host_bytes,
) -> Iterator[None]:
    """Turn an allocator's error inside into :class:`OutOfMemory`; the arguments are asked when it comes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _, said = asked_and_free(str(error))
        free = free_bytes() if said is None else said
        raise shortage(error, stage(), settings, request, held_bytes(), free) from error
