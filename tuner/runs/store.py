"""The store: one row per run in SQLite, one folder per run beside it.

Several processes may share a data directory (the page's server, ``tuner run``): each run belongs to the
process that started it, and one whose owner is gone was cut short.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_data_path

from tuner.errors import BadInput, TunerError
from tuner.request import FILES

SCHEMA = 2

ACTIVE = ("queued", "running", "cancelling")

_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created TEXT NOT NULL,
    status TEXT NOT NULL,
    model TEXT NOT NULL,
    preset TEXT NOT NULL,
    request TEXT NOT NULL,
    settings TEXT NOT NULL,
    measured TEXT,
    forecast TEXT,
    video TEXT,
    message TEXT NOT NULL,
    owner_pid INTEGER NOT NULL,
    owner_started REAL NOT NULL
);
"""


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run.

    Attributes:
        id: Its name; also the name of its folder.
        created: When it was asked for, ISO 8601 with the zone.
        status: queued, running, cancelling, done, cancelled, out of memory, crashed or failed.
        model: Name or folder of the model.
        request: The request as JSON; pictures and source clip are paths of copies in the run's folder.
        settings: The knobs as JSON.
        measured: As in the JSON of ``tuner run``, once it is done.
        forecast: What it was forecast to cost on this machine, once that is known; as in the same JSON.
        video: The mp4 of the first clip, once it is written.
        message: One line on why it ended early.
        preset: Name of the preset it started from.
        queue_position: 1 for the next to run, 0 when it does not wait.
    """

    id: str
    created: str
    status: str
    model: str
    request: dict[str, Any]
    settings: dict[str, Any]
    measured: dict[str, Any] | None = None
    video: Path | None = None
    message: str = ""
    preset: str = ""
    queue_position: int = 0
    forecast: dict[str, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether it has yet to end."""
        return self.status in ACTIVE

    @property
    def videos(self) -> list[Path]:
        """The mp4s of all clips that are there, the first one first."""
        if self.video is None:
            return []
        clips = self.request.get("num_clips", 1)
        others = [numbered(self.video, number) for number in range(2, clips + 1)]
        return [self.video, *(path for path in others if path.is_file())]


def numbered(first: Path, number: int) -> Path:
    """The file of clip ``number`` beside that of the first: ``video.mp4``, ``video-2.mp4``, ..."""
    return first if number == 1 else first.with_stem(f"{first.stem}-{number}")


def default_data_dir() -> Path:
    """Where runs and presets are kept: TUNER_HOME, else this user's data directory."""
    place = os.environ.get("TUNER_HOME")
    return Path(place).expanduser() if place else user_data_path("easyanimate-tuner")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into one line that names it.

    Raises:
        TunerError: The disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise TunerError(f"cannot write {path}: {error.strerror or error}") from None
    except sqlite3.Error as error:
        raise TunerError(f"cannot write {path}: {error}") from None


class Store:
    """All runs of a data directory.

    Args:
        data_dir: Its place; None takes :func:`default_data_dir`. Made when it is missing.

    Raises:
        BadInput: The directory cannot be written, or its database is damaged or from a newer version.
    """

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self.data_dir = Path(data_dir) if data_dir is not None else default_data_dir()
        self.data_dir = self.data_dir.expanduser().absolute()
        self._file = self.data_dir / "tuner.db"
        self._lock = threading.Lock()
        try:
            (self.data_dir / "runs").mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._open()
        except (OSError, sqlite3.Error) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            allowed = f"a folder that can be written ({reason}); choose another with TUNER_HOME"
            raise BadInput("data directory", self.data_dir, allowed) from None

    def _open(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.executescript(f"BEGIN IMMEDIATE;{_TABLES}COMMIT;")
        version = self._database.execute("SELECT version FROM schema").fetchone()
        if version is None:
            self._database.execute("INSERT INTO schema VALUES (?)", (SCHEMA,))
        elif version[0] > SCHEMA:
            self._database.close()
            allowed = f"a database of version {SCHEMA}; this one is from a newer EasyAnimate Tuner"
            raise BadInput("data directory", self._file, allowed)
        elif version[0] < SCHEMA:
            self._upgrade()
        self._end_orphans()

    def _upgrade(self) -> None:
        """What version 1 did not have; another process may have done it meanwhile."""
        self._database.execute("BEGIN IMMEDIATE")
        if "forecast" not in [column[1] for column in self._database.execute("PRAGMA table_info(runs)")]:
            self._database.execute("ALTER TABLE runs ADD COLUMN forecast TEXT")
        self._database.execute("UPDATE schema SET version = ?", (SCHEMA,))
        self._database.execute("COMMIT")

    def _end_orphans(self) -> None:
        """Runs whose owner is gone without a word have crashed."""
        marks = ", ".join("?" * len(ACTIVE))
        rows = self._database.execute(
            f"SELECT id, owner_pid, owner_started FROM runs WHERE status IN ({marks})", ACTIVE
        ).fetchall()
        for run_id, pid, started in rows:
            if _started(pid) != started:
                self._database.execute(
                    "UPDATE runs SET status = 'crashed', message = ? WHERE id = ?",
                    ("the program that ran it ended", run_id),
                )

    def folder(self, run_id: str) -> Path:
        """The folder of a run that is in the store."""
        return self.data_dir / "runs" / run_id

    def add(self, record: RunRecord) -> None:
        """Write down a new run, which belongs to this process.

        Raises:
            TunerError: The database cannot be written.
        """
        row = (*_row(record, self.folder(record.id)), os.getpid(), _started(os.getpid()))
        with writing(self._file), self._lock:
            self._database.execute(
                "INSERT INTO runs (status, measured, forecast, video, message, id, created, model, preset,"
                " request, settings, owner_pid, owner_started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def update(self, record: RunRecord) -> None:
        """Write down what changed in a run: status, measured, forecast, video, message.

        Raises:
            TunerError: The database cannot be written.
        """
        changed = _row(record, self.folder(record.id))[:6]
        with writing(self._file), self._lock:
            self._database.execute(
                "UPDATE runs SET status = ?, measured = ?, forecast = ?, video = ?, message = ? WHERE id = ?",
                changed,
            )

    def get(self, run_id: str) -> RunRecord | None:
        """The run of that id, or None."""
        found = self._select("WHERE id = ?", run_id)
        return found[0] if found else None

    def latest(self) -> RunRecord | None:
        """The run that is being made, else the newest."""
        found = self._select("ORDER BY status IN ('running', 'cancelling') DESC, number DESC LIMIT 1")
        return found[0] if found else None

    def history(self, limit: int = 200) -> list[RunRecord]:
        """At most ``limit`` runs, newest first."""
        return self._select("ORDER BY number DESC LIMIT ?", limit)

    def version(self) -> tuple[int, int]:
        """Equal as long as nobody wrote to the database, here or in another process.

        Raises:
            TunerError: The database cannot be read.
        """
        with self._lock:
            try:
                ((others,),) = self._database.execute("PRAGMA data_version").fetchall()
            except sqlite3.Error as error:
                raise TunerError(f"cannot read {self._file}: {error}") from None
            return others, self._database.total_changes

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _select(self, clause: str, *values: object) -> list[RunRecord]:
        columns = "id, created, status, model, request, settings, measured, video, message, preset, forecast"
        with self._lock:
            try:
                rows = self._database.execute(f"SELECT {columns} FROM runs {clause}", values).fetchall()
            except sqlite3.Error as error:
                raise TunerError(f"cannot read {self._file}: {error}") from None
        return [self._record(row) for row in rows]

    def _record(self, row: tuple[Any, ...]) -> RunRecord:
        run_id, created, status, model, request, settings, measured, video, message, preset, forecast = row
        folder = self.folder(run_id)
        return RunRecord(
            id=run_id,
            created=created,
            status=status,
            model=model,
            request=_with_files(json.loads(request), lambda name: str(folder / name)),
            settings=json.loads(settings),
            measured=json.loads(measured) if measured else None,
            video=folder / video if video else None,
            message=message,
            preset=preset,
            forecast=json.loads(forecast) if forecast else None,
        )


def _started(pid: int) -> float:
    """When the process ``pid`` started, 0 when there is none: ids are used again, this tells them apart."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _row(record: RunRecord, folder: Path) -> tuple[object, ...]:
    return (
        record.status,
        json.dumps(record.measured) if record.measured else None,
        json.dumps(record.forecast) if record.forecast else None,
        _inside(str(record.video), folder) if record.video else None,
        record.message,
        record.id,
        record.created,
        record.model,
        record.preset,
        json.dumps(_with_files(record.request, lambda path: _inside(path, folder))),
        json.dumps(record.settings),
    )


def _inside(path: str, folder: Path) -> str:
    """``path`` relative to the run's folder when it is in there, so that a data directory can be moved."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def _with_files(request: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {**request, **{name: change(request[name]) for name in FILES if request.get(name)}}
