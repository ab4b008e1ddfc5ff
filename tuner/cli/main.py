"""The commands, and the one place where an error becomes a line and an exit code.

Heavy rooms (engine, page, bench) are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tuner import __version__
from tuner.cli.bench import bench
from tuner.cli.forecast import forecasts
from tuner.cli.models import ModelsDir, models
from tuner.cli.presets import presets
from tuner.cli.run import run
from tuner.errors import BadInput, Cancelled, OutOfMemory, TunerError
from tuner.runs.endings import ending_of

CANCELLED = 130

app = typer.Typer(
    name="tuner",
    help="EasyAnimate Tuner: make video generation fit and fly on the card you have.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.add_typer(forecasts, name="forecast")
app.add_typer(bench, name="bench")
app.add_typer(presets, name="presets")
app.add_typer(models, name="models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 bad input, 3 out of memory, 4 failed, 130 cancelled."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (Cancelled, KeyboardInterrupt, typer.Abort):
        print("cancelled", file=sys.stderr)
        return CANCELLED
    except TunerError as error:
        return _say(str(error), error.exit_code)
    except typer.TyperException as error:
        return _say(f"{error.format_message()} (see --help)", BadInput.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # whoever read it has gone; nothing is left to flush at exit
        return 0
    except Exception as error:  # noqa: BLE001 - a user gets one line, never a traceback
        status, message = ending_of(error)
        return _say(message, OutOfMemory.exit_code if status == OutOfMemory.status else TunerError.exit_code)


def _say(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 7860,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where runs and presets are kept; TUNER_HOME or your data directory.")
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Serve the page."""
    from tuner.ui.app import launch

    launch(host=host, port=port, data_dir=data_dir)
