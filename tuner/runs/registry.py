"""The registry: the server's one view of its runs. It queues them, makes them one by one, answers for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tuner.errors import BadInput, TunerError
from tuner.forecast.desk import Desk
from tuner.forecast.learning import Learned
from tuner.forecast.questions import Answer, Question
from tuner.machine import card_of, check_capacity, this_machine
from tuner.models.registry import find_model
from tuner.request import Request
from tuner.runs.lessons import Lessons
from tuner.runs.process import WorkerProcess
from tuner.runs.recorder import Recorder, read_events
from tuner.runs.resume import retry, suggested
from tuner.runs.store import RunRecord, Store
from tuner.runs.worker import Job
from tuner.settings import Settings

TERMINATE_AFTER_SECONDS = 3.0
KILL_AFTER_SECONDS = 6.0

_log = logging.getLogger(__name__)


class Registry:
    """Runs of a data directory, made one at a time by a worker process that keeps the model.

    Its methods may be called from any thread. Runs belong to the registry, not to who asked for them.

    Args:
        data_dir: Where runs are kept; None takes TUNER_HOME or this user's data directory.
        desk: Asked for each run's forecast, which is kept beside what is measured; None keeps none. All it
            is asked from then on it answers with what these runs taught.

    Raises:
        BadInput: The data directory cannot be used.
    """

    def __init__(self, data_dir: str | Path | None = None, desk: Desk | None = None) -> None:
        self.store = Store(data_dir)
        self._desk = desk
        self._lessons = Lessons(self.store)
        if desk is not None:
            desk.learn_from(self.learned)
        self._changed = threading.Condition()
        self._here: dict[str, Recorder] = {}
        self._waiting: deque[str] = deque()
        self._running: str | None = None
        self._worker: WorkerProcess | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="tuner runs", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, if there is one."""
        worker = self._worker
        return worker.pid if worker else None

    def submit(self, model: str, request: Request, settings: Settings, preset: str = "") -> str:
        """Ask for a clip; it is made when those before it are.

        Args:
            model: Name or folder of the model.
            request: What to make; its pictures and source clip are copied.
            settings: How to make it.
            preset: Name of the preset it started from.

        Returns:
            The id of the run.

        Raises:
            BadInput: The model is unknown or not installed, a picture or the source clip cannot be used, or the
                caches are to be larger than the memory there is.
            TunerError: The data directory cannot be written.
        """
        find_model(model).folder()
        check_capacity(settings)
        recorder = Recorder(self.store, model, request, settings, preset)
        self._foresee(recorder)
        return self._queue(recorder)

    def retry(self, run_id: str, changes: Mapping[str, Any] | None = None) -> str:
        """Ask for the clip of a run that ended early, from the latents it reached where it kept some.

        Args:
            run_id: The run that ended.
            changes: Knobs that are to be other than they were; None takes what the run suggested at its end.

        Returns:
            The id of the new run.

        Raises:
            BadInput: As :meth:`submit`; there is no such run, it goes on or is done, or a change is not allowed.
            TunerError: The data directory cannot be written.
        """
        if changes is None:
            changes = suggested(read_events(self.store.folder(run_id))) if self.store.get(run_id) else {}
        again = retry(self.store, run_id, changes)
        if again.loras:
            raise BadInput("resume", run_id, "a run without LoRA files; tuner run --resume goes on with them")
        find_model(again.model).folder()
        parts = again.model, again.request, again.settings, again.preset
        return self._queue(Recorder(self.store, *parts, resumes=again.folder))

    def _foresee(self, recorder: Recorder) -> None:
        """Ask what the run will cost on this machine; its record learns it when it is known."""
        card = card_of(this_machine())
        if self._desk is None or card is None:
            return
        record = recorder.record
        question = Question(recorder.request, Settings(**record.settings), record.model, card.name)

        def keep(answer: Future[Answer]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                return  # a run can do without
            try:
                recorder.foresee(answer.result())
            except TunerError as error:
                _log.warning("%s", error)

        self._desk.ask(f"run {record.id}", question).add_done_callback(keep)

    def learned(self) -> Learned:
        """What the runs that are done taught the forecast; nothing when they cannot be read."""
        try:
            return self._lessons.learned()
        except TunerError as error:
            _log.warning("%s", error)
            return Learned()

    def _queue(self, recorder: Recorder) -> str:
        run_id = recorder.record.id
        with self._changed:
            self._here[run_id] = recorder
            self._waiting.append(run_id)
            self._changed.notify_all()
        return run_id

    def cancel(self, run_id: str) -> None:
        """Stop a run that waits or is being made; nothing happens to one that has ended."""
        with self._changed:
            recorder = self._here.get(run_id)
            if recorder is None or recorder.record.status not in ("queued", "running"):
                return
            if run_id in self._waiting:
                self._waiting.remove(run_id)
                _end(recorder, "cancelled", "cancelled before it began")
                self._forget(recorder)
                return
            worker = self._worker
            _change(recorder, "cancelling")
        if worker:
            worker.ask_to_stop()
            threading.Thread(target=self._insist, args=(run_id, worker), daemon=True).start()

    def _insist(self, run_id: str, worker: WorkerProcess) -> None:
        """End the worker of a run that does not stop by itself."""
        waited = 0.0
        for seconds, end in ((TERMINATE_AFTER_SECONDS, worker.terminate), (KILL_AFTER_SECONDS, worker.kill)):
            with self._changed:
                if self._changed.wait_for(lambda: self._running != run_id, seconds - waited):
                    return
                end()
            waited = seconds

    def delta(self, run_id: str, cursor: int) -> dict[str, Any]:
        """What happened in a run since ``cursor``, the ``next`` of the delta before; 0 at first.

        Returns:
            ``run, status, active, queue_position, message, from, next, events``. A cursor that the run does not
            have gives all events, with ``from`` 0; a run that is not known has the status ``unknown``.
        """
        with self._changed:
            recorder = self._here.get(run_id)
        if recorder is not None:
            record, start, events = recorder.since(cursor)
        else:
            found = self.store.get(run_id)
            if found is None:
                return {"run": run_id, "status": "unknown", "active": False, "from": 0, "next": 0, "events": []}
            everything = read_events(self.store.folder(run_id))
            start = cursor if 0 <= cursor <= len(everything) else 0
            record, events = found, everything[start:]
        return {
            "run": run_id,
            "status": record.status,
            "active": record.active,
            "queue_position": self._position(run_id),
            "message": record.message,
            "from": start,
            "next": start + len(events),
            "events": events,
        }

    def get(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None."""
        record = self.store.get(run_id)
        return self._now(record) if record else None

    def latest(self) -> RunRecord | None:
        """The run that is being made, else the newest."""
        stored = self.store.latest()
        if stored is None:
            return None
        latest = self._now(stored)
        if stored.active and not latest.active:  # its end could not be written
            latest = self.history(1)[0]
        return latest

    def history(self, limit: int = 200) -> list[RunRecord]:
        """At most ``limit`` runs, newest first."""
        return [self._now(record) for record in self.store.history(limit)]

    def _now(self, stored: RunRecord) -> RunRecord:
        """What was stored of a run, as it is now."""
        with self._changed:
            recorder = self._here.get(stored.id)
        record = recorder.record if recorder else stored
        return replace(record, queue_position=self._position(record.id))

    def _position(self, run_id: str) -> int:
        with self._changed:
            return self._waiting.index(run_id) + 1 if run_id in self._waiting else 0

    def close(self) -> None:
        """Stop everything: the current run, those that wait, the worker, the store."""
        with self._changed:
            self._closing = True
            for run_id in self._waiting:
                _end(self._here[run_id], "cancelled", "the server was stopped")
            self._waiting.clear()
            running = self._running
            self._changed.notify_all()
        if running:
            self.cancel(running)
        self._thread.join()
        self.store.close()

    def _serve(self) -> None:
        """Run what waits, first come first served, until the registry is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    break
                run_id = self._waiting.popleft()
                recorder = self._here[run_id]
                worker = self._fit_worker(recorder)
                self._running = run_id if worker else None
            if worker:
                self._make(recorder, worker)
                if not worker.usable:
                    worker.close()
            with self._changed:
                self._running = None
                self._forget(recorder)
                self._changed.notify_all()
        if self._worker:
            self._worker.close()

    def _fit_worker(self, recorder: Recorder) -> WorkerProcess | None:
        """The worker that takes the run of ``recorder`` on, a new one where need be."""
        if self._worker and not self._worker.usable:
            self._worker.close()
            self._worker = None
        try:
            self._worker = self._worker or WorkerProcess()
        except OSError as error:
            _end(recorder, "failed", f"cannot start a worker process: {error.strerror or error}")
            return None
        self._worker.prepare()
        _change(recorder, "running")
        return self._worker

    def _make(self, recorder: Recorder, worker: WorkerProcess) -> None:
        """Have ``worker`` make one run; however it ends, the record says so."""
        record, previews = recorder.record, self.store.data_dir / "previews"
        try:
            for event in worker.run(Job(record.model, record.request, record.settings, recorder.folder, previews)):
                recorder.tell(event)
        except EOFError:
            reason = worker.last_words()
        except TunerError as error:
            worker.kill()
            _end(recorder, "failed", str(error))
            return
        else:
            reason = "the worker ended the run without a word"
        if recorder.record.status == "cancelling":
            _end(recorder, "cancelled", "cancelled")
        else:
            _end(recorder, "crashed", reason)

    def _forget(self, recorder: Recorder) -> None:
        """From here on the store answers for this run, unless its end could not be written."""
        if recorder.saved:
            del self._here[recorder.record.id]


def _change(recorder: Recorder, status: str) -> None:
    try:
        recorder.become(status)
    except TunerError as error:
        _log.warning("%s", error)


def _end(recorder: Recorder, status: str, message: str) -> None:
    """End a run that has not ended by itself."""
    try:
        recorder.fail(status, message)
    except TunerError as error:
        _log.warning("%s", error)
