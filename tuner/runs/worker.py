"""The worker: a process that loads a model, keeps it, and makes one clip after the other.

It imports torch only when its first job comes, so that starting it costs nothing, and it never imports
gradio. It speaks through a pipe: ``("event", {...})`` while a run goes on, ``("over", fit)`` after it, where a
worker that is not fit for another run ends. The end of the pipe is the end of the worker.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tuner.errors import BadInput, Cancelled
from tuner.meter.events import Event, Failed, Finished, StageStarted, to_json
from tuner.pressure import relieved
from tuner.request import Request
from tuner.runs.endings import ending_of, keep_traceback
from tuner.runs.resume import LATENTS_FILE
from tuner.settings import Settings

if TYPE_CHECKING:
    from tuner.models.components import Components


class Flag(Protocol):
    """A byte both processes see. No lock guards it: a worker killed while holding one would block the server."""

    value: int


@dataclass(frozen=True)
class Job:
    """One run as the worker gets it.

    Attributes:
        model: Name or folder of the model.
        request: As JSON.
        settings: As JSON.
        folder: Where its files go; latents that lie there already are those to go on from.
        previews: Where is kept how latents are shown, from run to run.
    """

    model: str
    request: dict[str, Any]
    settings: dict[str, Any]
    folder: Path
    previews: Path


@dataclass
class _Kept:
    """The model that is loaded, and what it was loaded for."""

    key: tuple[str, str] | None = None
    components: Components | None = None


def work(jobs: Connection, replies: Connection, stop: Flag) -> None:
    """Serve ``jobs`` until the pipe ends or a run leaves the process unfit for another one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    kept = _Kept()
    while True:
        try:
            job = jobs.recv()
        except (EOFError, OSError):
            return
        fit = _run(job, kept, replies, stop)
        _send(replies, ("over", fit))
        if not fit:
            return


def _send(replies: Connection, message: tuple[str, Any]) -> None:
    try:
        replies.send(message)
    except OSError:
        os._exit(1)  # the server is gone: nobody wants the rest


@dataclass
class _Teller:
    """Passes events on, their clock moved by the time that loading took."""

    replies: Connection
    began: float = field(default_factory=time.perf_counter)
    offset: float = 0.0
    ended: bool = False

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def tell(self, event: Event) -> None:
        self.ended = self.ended or isinstance(event, Finished | Failed)
        _send(self.replies, ("event", to_json(replace(event, at=event.at + self.offset))))


def _run(job: Job, kept: _Kept, replies: Connection, stop: Flag) -> bool:
    """Make one clip; whether the process is fit for another one."""
    teller = _Teller(replies)
    try:
        _generate(job, kept, teller, stop)
        return True
    except Exception as error:  # noqa: BLE001 - whatever ends a run is its status, and the server must hear it
        status, message = ending_of(error)
        fit = isinstance(error, BadInput | Cancelled)
        if not fit:
            keep_traceback(job.folder, error)
        if not teller.ended:
            teller.offset = 0.0
            teller.tell(Failed(teller.seconds, status, message))
        return fit


def _generate(job: Job, kept: _Kept, teller: _Teller, stop: Flag) -> None:
    settings = Settings(**job.settings)
    request = Request(**job.request)
    key = (job.model, settings.precision)
    if kept.key != key:
        teller.tell(StageStarted(0.0, "load"))
        kept.key = kept.components = None  # the old model goes before the new one comes

        from tuner.models.load import load_model

        with relieved(settings, request):
            kept.components = load_model(job.model, settings)
        kept.key = key
    assert kept.components is not None

    from tuner.engine.generate import generate
    from tuner.engine.preview import Preview
    from tuner.engine.progress import Progress

    _return_memory()
    latents = job.folder / LATENTS_FILE
    if stop.value:
        raise Cancelled("cancelled")
    teller.offset = teller.seconds
    generate(
        request,
        settings,
        kept.components,
        on_event=teller.tell,
        output_dir=job.folder,
        should_stop=lambda: bool(stop.value),
        keep_progress=latents,
        resume=Progress.load(latents) if latents.exists() else None,
        preview=Preview.of(kept.components.vae, kept.components.path / "vae", job.previews),
    )


def _return_memory() -> None:
    """Start from a clean allocator, so that the figures of this run are its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
