"""The page's public end points, for programs: ``gradio_client`` or plain HTTP.

Everything else on the page is private. A run belongs to the server: it goes on when the client leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
from gradio.events import api

from tuner.errors import BadInput, TunerError
from tuner.models.registry import find_model
from tuner.request import FILES, Request
from tuner.runs import Registry
from tuner.settings import Settings
from tuner.ui.form import MODEL_DEFAULTS
from tuner.ui.library import Library
from tuner.ui.live import file_address


def publish(registry: Registry, library: Library) -> None:
    """Add the end points to the ``gr.Blocks`` that is being made."""

    def run(
        prompt: str,
        model: str = "demo",
        preset: str = "",
        settings: dict[str, Any] | None = None,
        request: dict[str, Any] | None = None,
    ) -> dict[str, str]:
        """Ask for a clip and return at once.

        Args:
            prompt: What the clip shows, in English or Chinese.
            model: Name of an installed model, or the path of a checkpoint folder on the server.
            preset: Name of a preset, as /presets lists them; empty for the default settings.
            settings: Knobs by name that differ from the preset, such as {"chunk_size": 2}.
            request: Fields by name that differ from the model's defaults: negative_prompt, width, height,
                frames, fps, steps, guidance, seed, scheduler, noise_aug_strength, num_clips.

        Returns:
            {"run": id}, for /status, /result and /cancel.
        """
        info = find_model(model)
        chosen = library.read(preset) if preset else None
        knobs = chosen.settings if chosen else Settings()
        fields: dict[str, Any] = {name: getattr(info, name) for name in MODEL_DEFAULTS}
        fields |= {**(chosen.request.given if chosen else {}), **(request or {}), "prompt": prompt}
        for name in FILES:
            if name in fields:
                raise BadInput(f"request.{name}", fields[name], "files come from the page or the command line")
        wanted = Request(**fields)
        return {"run": registry.submit(model, wanted, knobs.replace(**(settings or {})), preset)}

    def status(run: str, cursor: int = 0) -> dict[str, Any]:
        """What happened in a run since the last call.

        Args:
            run: Id that /run gave.
            cursor: ``next`` of the last answer; 0 for everything.

        Returns:
            run, status, active, queue_position, message, from, next, and events, oldest first; each event has
            its kind (StageStarted, StepDone, MemorySample, ...) and ``at``, seconds since the run began.
        """
        return registry.delta(run, int(cursor))

    def result(run: str) -> dict[str, Any]:
        """The outcome of a run.

        Args:
            run: Id that /run gave.

        Returns:
            run, status, message, model, request, settings, measured (None until it is done), forecast (what it was
            to cost; None until that is known), video: the address of the mp4 on this server, or None, and videos:
            those of all clips.
        """
        record = registry.get(run)
        if record is None:
            return {"run": run, "status": "unknown"}
        return {
            "run": record.id,
            "status": record.status,
            "message": record.message,
            "model": record.model,
            "request": record.request,
            "settings": record.settings,
            "measured": record.measured,
            "forecast": record.forecast,
            "video": f"/{file_address(record.video)}" if record.video else None,
            "videos": [f"/{file_address(video)}" for video in record.videos],
        }

    def cancel(run: str) -> dict[str, str]:
        """Stop a run that waits or is being made.

        Args:
            run: Id that /run gave.

        Returns:
            run and its status now, which may still be ``cancelling``.
        """
        registry.cancel(run)
        record = registry.get(run)
        return {"run": run, "status": record.status if record else "unknown"}

    def presets() -> list[dict[str, Any]]:
        """Every preset: name (for /run), title, model, gpu, settings, request and what was measured."""
        found = []
        for entry in library.entries():
            values = library.read(entry.key).model_dump(mode="json")
            values["title"] = values.pop("name")
            found.append({"name": entry.path.stem, **values})
        return found

    end_points: tuple[Callable[..., Any], ...] = (run, status, result, cancel, presets)
    for end_point in end_points:
        api(_one_line_errors(end_point), api_name=end_point.__name__, concurrency_limit=None)


def _one_line_errors(work: Callable[..., Any]) -> Callable[..., Any]:
    """``work`` whose refusals reach the client as their one line."""

    @wraps(work)
    def guarded(*values: Any, **named: Any) -> Any:
        try:
            return work(*values, **named)
        except TunerError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return guarded
