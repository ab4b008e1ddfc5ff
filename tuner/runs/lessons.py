"""What the runs of a store teach the forecast, worked out when asked for: nothing is kept beside the store."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from tuner.errors import BadInput
from tuner.forecast.learning import FinishedRun, Learned
from tuner.runs.store import Store, default_data_dir
from tuner.settings import Settings

_LATEST = 100


class Lessons:
    """Reads a store again only when it has changed. May be asked from several threads.

    Args:
        store: The runs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None
        self._learned = Learned()

    def learned(self) -> Learned:
        """What the latest runs that are done taught.

        Raises:
            TunerError: The store cannot be read.
        """
        with self._lock:
            version = self._store.version()
            if version != self._version:
                self._learned = Learned(_finished(self._store))
                self._version = version
            return self._learned


def learned_here() -> Learned:
    """What the runs in :func:`tuner.runs.store.default_data_dir` taught; nothing is made where there are none.

    Raises:
        BadInput: There is a store that cannot be opened.
        TunerError: It cannot be read.
    """
    if not (default_data_dir() / "tuner.db").is_file():
        return Learned()
    store = Store()
    try:
        return Lessons(store).learned()
    finally:
        store.close()


def _finished(store: Store) -> Iterator[FinishedRun]:
    for record in store.history(_LATEST):
        if record.status != "done" or record.forecast is None or record.measured is None:
            continue
        try:
            settings = Settings(**record.settings)
        except BadInput:
            continue  # written by another version, whose knobs were others
        yield FinishedRun(record.model, settings, record.forecast, record.measured)
