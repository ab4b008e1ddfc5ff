"""``tuner run``: one generation in this process, recorded where the page's history finds it."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from tuner.cli.models import ModelsDir
from tuner.cli.options import with_request_options
from tuner.cli.plan import Plan, make_plan, resume_plan
from tuner.cli.progress import Progress
from tuner.cli.record import Record
from tuner.errors import BadInput, OutOfMemory
from tuner.meter.events import Event, Finished, StageStarted
from tuner.pressure import Changes, as_flags, relieved
from tuner.runs.endings import ending_of
from tuner.runs.resume import reached
from tuner.runs.store import numbered, writing
from tuner.settings import GIB, KNOBS

_VIDEO = "video.mp4"


@with_request_options
def run(
    flags: dict[str, Any],
    preset: Annotated[str, typer.Option(metavar="F", help="A preset file, a clip made here, or a name.")] = "",
    model: Annotated[str, typer.Option(metavar="M", help="Name or folder of the model.")] = "",
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KNOB=VALUE", help=f"Set a knob; may be repeated. Knobs: {', '.join(KNOBS)}."
        ),
    ] = None,
    loras: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[=WEIGHT]",
            help="Add a LoRA to the transformer, 1 of it or WEIGHT; may be repeated.",
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN_ID",
            help="Go on with a run that ended early, from the latents it reached; takes only --set and --out.",
        ),
    ] = "",
    models_dir: ModelsDir = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the clips; made when missing.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Make a clip, or several of one prompt. A flag beats the preset, the preset beats the model's default."""
    if resume:
        plan = resume_plan(resume, knobs or [], {"preset": preset, "model": model, "lora": loras, **flags})
    else:
        plan = make_plan(model, preset, knobs or [], flags, loras or [])
    with _working_folder(out) as folder, Record(plan) as record:
        try:
            finished = _generate(plan, folder, record, quiet)
            videos = _put(folder / _VIDEO, plan.request.num_clips, out, record.run_id)
            record.finish(finished, videos)
            forecast = record.foresee(plan)
        except BaseException as error:
            suggestion = error.suggestion if isinstance(error, OutOfMemory) else {}
            if not quiet:
                _tell_resuming(record, suggestion)
            if as_json:
                status, message = ending_of(error)
                print(json.dumps(_report(plan, record.run_id, status, message=message, suggestion=suggestion)))
            raise
    if as_json:
        print(json.dumps(_report(plan, record.run_id, "done", videos, finished.measured, forecast)))
    else:
        peak, seconds = finished.measured["peak_allocated_bytes"] / GIB, finished.measured["seconds"]
        names = "  ".join(str(video) for video in videos)
        print(f"{names}  ({seconds:.1f} s, peak {peak:.2f} GiB allocated)")


def _tell_resuming(record: Record, suggestion: Changes) -> None:
    """Say how to go on, where latents were kept."""
    kept = reached(record.latents.parent) if record.latents else None
    if kept:
        command = f"tuner run --resume {record.run_id} {as_flags(suggestion)}".rstrip()
        print(f"step {kept.done} of {kept.steps} was reached; to go on: {command}", file=sys.stderr)


def _report(
    plan: Plan,
    run_id: str,
    status: str,
    videos: Sequence[Path] = (),
    measured: dict[str, Any] | None = None,
    forecast: dict[str, Any] | None = None,
    message: str = "",
    suggestion: Changes | None = None,
) -> dict[str, Any]:
    """The JSON of a run, as the documentation has it."""
    return {
        "run_id": run_id,
        "status": status,
        "message": message,
        "video": str(videos[0]) if videos else None,
        "videos": [str(video) for video in videos],
        "width": plan.request.width,
        "height": plan.request.height,
        "frames": plan.request.frames,
        "fps": plan.request.fps,
        "settings": plan.settings.model_dump(mode="json"),
        "measured": measured,
        "forecast": forecast,
        "suggestion": suggestion or {},
    }


def _generate(plan: Plan, folder: Path, record: Record, quiet: bool) -> Finished:
    """Load the model and make the clip in ``folder``; what the engine said at its end."""
    ends: list[Finished] = []
    began = time.perf_counter()
    with nullcontext() if quiet else Progress(plan.request) as progress:

        def tell(event: Event) -> None:
            if isinstance(event, Finished):
                ends.append(event)
                return
            record.tell(event)
            if progress is not None:
                progress.show(event)

        tell(StageStarted(0.0, "load"))
        from tuner.engine.generate import generate
        from tuner.engine.progress import Progress as Reached
        from tuner.models.load import load_model

        latents = Reached.load(plan.latents) if plan.latents else None
        with relieved(plan.settings, plan.request):
            components = load_model(plan.model, plan.settings, loras=plan.loras)
        loaded = time.perf_counter() - began
        with _stoppable() as should_stop:
            generate(
                plan.request,
                plan.settings,
                components,
                on_event=lambda event: tell(replace(event, at=event.at + loaded)),
                output_dir=folder,
                should_stop=should_stop,
                keep_progress=record.latents,
                resume=latents,
            )
    return ends[0]


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the run to stop at its next checkpoint; a second one stops the program."""
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    """A folder inside ``out`` for what is not finished; gone afterwards."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tuner-", dir=out))
    except OSError as error:
        raise BadInput("--out", out, f"a folder that can be written ({error.strerror})") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(first: Path, clips: int, out: Path, run_id: str) -> list[Path]:
    """Move the finished clips into ``out``, beside what is there."""
    numbers = range(1, clips + 1)
    place = out / _VIDEO
    if any(numbered(place, number).exists() for number in numbers):
        place = out / f"{run_id}.mp4"
    placed = []
    for number in numbers:
        target = numbered(place, number)
        with writing(target):
            placed.append(numbered(first, number).replace(target).absolute())
    return placed
