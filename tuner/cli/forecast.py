"""``tuner forecast``: what a clip would cost on a card, without the card and without the weights."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tuner.cli.models import ModelsDir
from tuner.cli.options import with_request_options
from tuner.cli.presets import find_preset
from tuner.errors import BadInput, TunerError
from tuner.forecast.learning import Learned
from tuner.hardware import CARDS, Card, find_card
from tuner.models.registry import ModelInfo, find_model, list_models
from tuner.presets import SHIPPED, Preset
from tuner.request import Request
from tuner.runs.lessons import learned_here
from tuner.settings import GIB, KNOBS, Settings, parse_knob

if TYPE_CHECKING:
    from tuner.forecast.forecast import Forecast

_LARGE_PARAMETERS = 10**9
_OF_THE_CARD = "card"


class _Group(TyperGroup):
    """Lets ``--fit`` stand without a value: typer has no such options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        filled: list[str] = []
        for place, argument in enumerate(args):
            following = args[place + 1] if place + 1 < len(args) else "-"
            filled += [argument, _OF_THE_CARD] if argument == "--fit" and following.startswith("-") else [argument]
        return super().parse_args(ctx, filled)


forecasts = typer.Typer(cls=_Group, help="What a clip would cost on a card that need not be here.")


@dataclass(frozen=True)
class _Question:
    """What is asked about."""

    model: ModelInfo
    request: Request
    settings: Settings
    gpu: str

    @property
    def model_name(self) -> str:
        """What finds the model again."""
        return str(self.model.path or self.model.name)


@forecasts.callback(invoke_without_command=True)
@with_request_options
def forecast(
    context: typer.Context,
    flags: dict[str, Any],
    preset: Annotated[str, typer.Option(metavar="F", help="A preset file, a clip made here, or a name.")] = "",
    model: Annotated[str, typer.Option(metavar="M", help="Name or folder of the model.")] = "",
    gpu: Annotated[
        str, typer.Option(metavar="CARD", help=f"One of {', '.join(CARDS)}; the preset's, else a10, by default.")
    ] = "",
    engine: Annotated[
        str | None, typer.Option(metavar="E", help="tuned, or stock: diffusers' own forwards.")
    ] = None,
    knobs: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KNOB=VALUE", help=f"Set a knob; may be repeated. Knobs: {', '.join(KNOBS)}."
        ),
    ] = None,
    expandable_segments: Annotated[
        bool,
        typer.Option(
            "--expandable-segments/--no-expandable-segments",
            help="As in PYTORCH_ALLOC_CONF; tuner turns them on on Linux.",
        ),
    ] = True,
    fit: Annotated[
        str,
        typer.Option(
            "--fit",
            metavar="[GIB]",
            help="Look for the fastest lossless settings that fit the card, or so much memory altogether.",
        ),
    ] = "",
    timeline: Annotated[
        Path | None,
        typer.Option("--timeline", metavar="FILE", help="Write memory over time: FILE.csv and FILE.html."),
    ] = None,
    learning: Annotated[
        bool,
        typer.Option(
            "--learning/--no-learning",
            help="Correct the seconds by the finished runs on that card in your data directory.",
        ),
    ] = True,
    models_dir: ModelsDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Say what a clip would cost. Takes the options of ``tuner run``; pictures are not opened."""
    if context.invoked_subcommand is not None:
        return
    assignments = [*(knobs or []), *([f"engine={engine}"] if engine else [])]
    question = _question(model, preset, assignments, flags, gpu)

    from tuner.forecast.forecast import Forecaster

    forecaster = Forecaster(learned=_learned() if learning else None)
    model, gpu = question.model_name, question.gpu
    memory_bytes = None
    if fit:
        from tuner.forecast.fit import fastest_that_fits

        memory_bytes = None if fit == _OF_THE_CARD else _memory(fit)
        found = fastest_that_fits(
            question.request,
            model=model,
            gpu=gpu,
            memory_bytes=memory_bytes,
            start=question.settings,
            forecaster=forecaster,
        )
        question = replace(question, settings=found.settings)
    answer = forecaster.forecast(
        question.request,
        question.settings,
        model=model,
        gpu=gpu,
        memory_bytes=memory_bytes,
        expandable_segments=expandable_segments,
    )
    if timeline:
        from tuner.forecast.timeline import write_timeline

        moments = forecaster.timeline(
            question.request, question.settings, model=model, gpu=gpu, expandable_segments=expandable_segments
        )
        limit = find_card(question.gpu).usable_bytes
        for file in write_timeline(timeline, moments, _headline(question), limit):
            print(file, file=sys.stderr)
    settings = question.settings.model_dump(mode="json")
    if as_json:
        print(json.dumps({**answer.to_json(), **({"settings": settings} if fit else {})}))
    else:
        if fit:
            print("\n".join(f"{name} = {value}" for name, value in settings.items()))
        print(_as_text(question, answer, find_card(question.gpu).with_memory(memory_bytes)))


@forecasts.command()
def table(
    model: Annotated[
        list[str] | None, typer.Option(metavar="M", help="May be repeated; every published model by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the cells there, as JSON.")] = None,
) -> None:
    """What fits on cards of 8 to 80 GB, and in how many minutes: stock / tuned, from a start image."""
    from tuner.bench.files import check_place, write_result
    from tuner.forecast.forecast import Forecaster
    from tuner.forecast.table import cells, markdown

    check_place(out)
    forecaster, tables = Forecaster(), {}
    for name in model or [info.name for info in list_models() if info.download]:
        found = cells(name, forecaster)
        tables[name] = [asdict(cell) for cell in found]
        print(markdown(find_model(name).name, found), end="\n\n", flush=True)
    if out is not None:
        write_result(out, tables)


@forecasts.command()
def presets(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.")] = SHIPPED,
) -> None:
    """Make the presets that come with the project anew: every published size on 8, 12, 16 and 24 GB."""
    from tuner.forecast.forecast import Forecaster
    from tuner.forecast.shipped import write_presets

    for file in write_presets(out, Forecaster()):
        print(file, flush=True)


def _learned() -> Learned:
    """What the runs here taught; a store that cannot be read is a warning, no obstacle."""
    try:
        return learned_here()
    except TunerError as error:
        print(f"warning: nothing was learned from earlier runs: {error}", file=sys.stderr)
        return Learned()


def _memory(text: str) -> int:
    """Bytes of a number of GiB."""
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise BadInput("--fit", text, "a number of GiB above 0")
    return int(gib * GIB)


def _question(model: str, preset: str, knobs: Sequence[str], flags: Mapping[str, Any], gpu: str) -> _Question:
    """A flag beats the preset, the preset beats the model's default; nothing is downloaded or opened.

    Raises:
        BadInput: Any of it is not allowed.
    """
    start = find_preset(preset)[1] if preset else Preset(name="")
    info = find_model(model or start.model or "demo")
    defaults = {name: getattr(info, name) for name in ("width", "height", "frames", "steps", "fps")}
    given = {name: value for name, value in flags.items() if value is not None}
    request = Request(**{**defaults, **start.request.given, **given})
    if request.frames > info.max_frames:
        raise BadInput("frames", request.frames, f"at most {info.max_frames} with this model")
    settings = start.settings.replace(**dict(parse_knob(knob) for knob in knobs))
    card = gpu or start.gpu or ("a10" if info.parameters >= _LARGE_PARAMETERS else "cpu")
    return _Question(info, request, settings, find_card(card).name)


def _headline(question: _Question) -> str:
    request = question.request
    return (
        f"{question.model.name}, {request.width}x{request.height}, {request.frames} frames, {request.steps} steps "
        f"on {find_card(question.gpu).title} (a forecast; nothing was run)"
    )


def _as_text(question: _Question, answer: Forecast, card: Card) -> str:
    lines = [
        _headline(question),
        f"{'stage':14}{'peak GiB':>10}{'seconds':>10}{'to card GiB':>14}{'to host GiB':>14}",
    ]
    for stage in answer.stages:
        moved = stage.transfers
        lines.append(
            f"{stage.name:14}{stage.peak_allocated_bytes / GIB:10.2f}{stage.seconds:10.1f}"
            f"{moved['h2d_bytes'] / GIB:14.1f}{moved['d2h_bytes'] / GIB:14.1f}"
        )
    lines.append(
        f"peak {answer.peak_allocated_bytes / GIB:.2f} GiB allocated, {answer.peak_reserved_bytes / GIB:.2f} GiB "
        f"reserved ({answer.fragmentation:.0%} fragmentation); {answer.seconds:.0f} s, "
        f"{answer.step_seconds[-1]:.2f} s/step"
    )
    verdict = "fits" if answer.fits else "does not fit"
    if card.usable_bytes is not None and card.memory_bytes is not None:
        verdict += (
            f": {card.memory_bytes / GIB:.2f} GiB, of which the CUDA context takes {card.context_bytes / GIB:.2f}"
        )
    if answer.learned:
        count = answer.learned["runs"]
        runs = f"{count} run{'s' if count > 1 else ''}"
        verdict += f"\nseconds: learned from {runs} on this card (--no-learning: from its data sheet alone)"
    return "\n".join([*lines, verdict])
