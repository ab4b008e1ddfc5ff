"""The recorder: writes one run down while it happens, for the page's server and the command line alike."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.meter.events import Failed, to_json
from tuner.presets import save_preset
from tuner.request import Request
from tuner.runs.given import keep_given
from tuner.runs.resume import LATENTS_FILE, PRESET_FILE
from tuner.runs.store import RunRecord, Store, writing
from tuner.settings import Settings

EVENTS_FILE = "events.jsonl"


def new_run_id() -> str:
    """An id that sorts by time and is no other run's."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


class Recorder:
    """One run on its way: its row, its folder, its events. ``saved`` once its end is written down.

    The folder gets copies of the pictures and the source clip, ``preset.toml``, and ``events.jsonl`` line by line.
    The latents that whoever makes the run keeps at :attr:`latents` stay there until the run is done.

    Args:
        store: Where it is written.
        model: Name or folder of the model.
        request: What to make.
        settings: How to make it.
        preset: Name of the preset it started from.
        status: The status it begins with.
        run_id: Its id; a new one when empty.
        loras: Files merged into the model, and how much of each.
        resumes: Folder of the run whose latents it goes on from, where that has any.

    Raises:
        BadInput: A picture or the source clip cannot be used.
        TunerError: The data directory cannot be written.
    """

    def __init__(
        self,
        store: Store,
        model: str,
        request: Request,
        settings: Settings,
        preset: str = "",
        status: str = "queued",
        run_id: str = "",
        loras: Mapping[str, float] | None = None,
        resumes: Path | None = None,
    ) -> None:
        run_id = run_id or new_run_id()
        self.folder = store.folder(run_id)
        self.latents = self.folder / LATENTS_FILE
        self._loras = dict(loras or {})
        self.events: list[dict[str, Any]] = []
        self.saved = False
        self._store = store
        self._lock = threading.Lock()
        try:
            with writing(self.folder):
                self.folder.mkdir(parents=True)
            self.request = keep_given(request, self.folder)
            with writing(self.folder):
                self._log = (self.folder / EVENTS_FILE).open("a", encoding="utf-8", buffering=1)
            self.record = RunRecord(
                id=run_id,
                created=datetime.now().astimezone().isoformat(timespec="seconds"),
                status=status,
                model=model,
                request=self.request.model_dump(mode="json"),
                settings=settings.model_dump(mode="json"),
                preset=preset,
            )
            self._save_preset()
            self._take_over(resumes)
            store.add(self.record)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _save_preset(self) -> None:
        save_preset(
            self.folder / PRESET_FILE,
            Settings(**self.record.settings),
            name=self.record.preset or self.record.id,
            model=self.record.model,
            request=self.request,
            loras=self._loras,
            measured=self.record.measured,
        )

    def _take_over(self, resumes: Path | None) -> None:
        if resumes is not None and (resumes / LATENTS_FILE).is_file():
            with writing(self.latents):
                shutil.copyfile(resumes / LATENTS_FILE, self.latents)

    def become(self, status: str) -> None:
        """Change the status of a run that goes on.

        Raises:
            TunerError: The database cannot be written.
        """
        with self._lock:
            self.record = replace(self.record, status=status)
            self._store.update(self.record)

    def foresee(self, forecast: dict[str, Any]) -> None:
        """Write down what the run was forecast to cost, as ``tuner forecast --json`` prints it.

        Raises:
            TunerError: The database cannot be written.
        """
        with self._lock:
            self.record = replace(self.record, forecast=forecast)
            self._store.update(self.record)

    def tell(self, event: dict[str, Any]) -> None:
        """Write down one event, as :func:`tuner.meter.events.to_json` gives it; the last one ends the run.

        Raises:
            TunerError: The data directory cannot be written.
        """
        with self._lock:
            if not self.record.active:
                return
            self.events.append(event)
            with writing(self.folder / EVENTS_FILE):
                self._log.write(json.dumps(event, separators=(",", ":")) + "\n")
            if event["kind"] == "Finished":
                video = Path(event["video"]) if event["video"] else None
                self._end(replace(self.record, status="done", measured=event["measured"], video=video))
                self._save_preset()
            elif event["kind"] == "Failed":
                self._end(replace(self.record, status=event["status"], message=event["message"]))

    def fail(self, status: str, message: str) -> None:
        """End a run that cannot speak for itself any more, come what may.

        Raises:
            TunerError: The end is known here, but could not be written.
        """
        event = to_json(Failed(self.events[-1]["at"] if self.events else 0.0, status, message))
        with self._lock:
            if not self.record.active:
                return
            self.events.append(event)
            ended = replace(self.record, status=status, message=message)
            try:
                with writing(self.folder / EVENTS_FILE):
                    self._log.write(json.dumps(event, separators=(",", ":")) + "\n")
            finally:
                self._end(ended)

    def _end(self, record: RunRecord) -> None:
        self.record = record
        useless = [*self.folder.glob(".*")]  # what a worker was writing when it died
        if record.status == "done":
            useless.append(self.latents)
        for file in useless:
            with suppress(OSError):
                file.unlink()
        try:
            with writing(self.folder / EVENTS_FILE):
                self._log.close()
        finally:
            self._store.update(record)
        self.saved = True

    def since(self, cursor: int) -> tuple[RunRecord, int, list[dict[str, Any]]]:
        """The run as it is now, and its events from ``cursor`` on, or all when there are not so many."""
        with self._lock:
            start = cursor if 0 <= cursor <= len(self.events) else 0
            return self.record, start, self.events[start:]


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events that a run's folder holds; a last line that was cut short is left out."""
    try:
        lines = (folder / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
