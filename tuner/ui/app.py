"""Build the page and serve it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr

from tuner.errors import BadInput
from tuner.forecast.desk import Desk
from tuner.machine import this_machine
from tuner.models.registry import list_models
from tuner.runs import Registry
from tuner.ui.api import publish
from tuner.ui.form import SAMPLES
from tuner.ui.library import Library
from tuner.ui.page import Page
from tuner.ui.sidebar import model_key, model_title
from tuner.ui.theme import PLOTLY_JS, read, theme
from tuner.ui.words import translations

TITLE = "EasyAnimate Tuner"
MAX_UPLOAD = "100mb"
_MOST_PORTS = 65535
_SWEEP_SECONDS, _KEPT_SECONDS = 3600, 86400


def build(registry: Registry, data_dir: Path, desk: Desk) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page over a registry.

    Args:
        registry: The runs it shows and starts.
        data_dir: Where the registry keeps runs; own presets lie there too.
        desk: Makes the forecasts.

    Returns:
        The page, and what its ``launch`` has to be called with beside host and port.
    """
    machine, library, models = this_machine(), Library(data_dir), list_models()
    gr.set_static_paths([PLOTLY_JS, SAMPLES])
    with gr.Blocks(
        title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(_SWEEP_SECONDS, _KEPT_SECONDS)
    ) as blocks:
        page = Page(registry, library, machine, models[0], desk)
        page.on_load(blocks)
        publish(registry, library)
    blocks.queue(default_concurrency_limit=8)
    return blocks, {
        "theme": theme(),
        "css": read("page.css") + read("forecast.css"),
        "js": read("page.js"),
        "i18n": translations({model_key(info): model_title(info) for info in models}),
        "allowed_paths": [str(data_dir / "runs")],
        "max_file_size": MAX_UPLOAD,
        "footer_links": ["api", "settings"],
        "run_history": False,
        "ssr_mode": False,
        "show_error": True,
        "quiet": True,
    }


def launch(host: str = "127.0.0.1", port: int = 7860, data_dir: str | Path | None = None) -> None:
    """Serve the page until the process is stopped.

    Args:
        host: Address to listen on; the default is reachable from this computer only.
        port: Port to listen on.
        data_dir: Where runs and presets are kept; None takes TUNER_HOME or this user's data directory.

    Raises:
        BadInput: The data directory cannot be used, or the port is taken.
    """
    if not 1 <= port <= _MOST_PORTS:
        raise BadInput("port", port, f"1 to {_MOST_PORTS}")
    with Desk() as desk, Registry(data_dir, desk) as registry:
        place = registry.store.data_dir
        os.environ.setdefault("GRADIO_TEMP_DIR", str(place / "uploads"))
        blocks, options = build(registry, place, desk)
        try:
            blocks.launch(server_name=host, server_port=port, prevent_thread_lock=True, **options)
        except OSError:
            raise BadInput("address", f"{host}:{port}", "an address of this computer with a free port") from None
        print(f"{TITLE}: http://{host}:{port}", flush=True)
        blocks.block_thread()
