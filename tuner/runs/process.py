"""The server's end of a worker process: start it, send it jobs, hear it, stop it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from tuner.runs.worker import Job, work

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the server's threads' locks, and break CUDA
_CLOSE_SECONDS = 2.0


class WorkerProcess:
    """A worker that has been started and waits for jobs; ``fit`` until it can take no more of them."""

    def __init__(self) -> None:
        their_jobs, self._jobs = _SPAWN.Pipe(duplex=False)
        self._replies, their_replies = _SPAWN.Pipe(duplex=False)
        self._stop = _SPAWN.RawValue("b", 0)
        self._process = _SPAWN.Process(
            target=work, args=(their_jobs, their_replies, self._stop), name="tuner worker", daemon=True
        )
        self.fit = True
        self._process.start()
        # Only the worker holds these ends now: when it dies, reading meets the end of the pipe.
        their_jobs.close()
        their_replies.close()

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether it can take a job."""
        return self.fit and self._process.is_alive()

    def prepare(self) -> None:
        """Forget that an earlier job was to stop."""
        self._stop.value = 0

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        """Send ``job``; its events as JSON, as they happen.

        Raises:
            EOFError: The worker died before the job was over.
        """
        try:
            self._jobs.send(job)
            while True:
                kind, content = self._replies.recv()
                if kind == "over":
                    self.fit = content
                    return
                yield content
        except (EOFError, OSError):
            self.fit = False
            raise EOFError from None

    def ask_to_stop(self) -> None:
        """Have the current job end at its next checkpoint."""
        self._stop.value = 1

    def terminate(self) -> None:
        """End the process; it may still clean up."""
        self.fit = False
        self._process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        self.fit = False
        self._process.kill()

    def last_words(self) -> str:
        """Why a worker that died did, in one line."""
        self._process.join(_CLOSE_SECONDS)
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"the worker process ended unexpectedly (exit code {code})"
        name = signal.Signals(-code).name
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"

    def close(self) -> None:
        """End the process, gently first, and free what it held here."""
        self._jobs.close()
        for end in (self.terminate, self.kill):
            self._process.join(_CLOSE_SECONDS)
            if not self._process.is_alive():
                break
            end()
        self._process.join(_CLOSE_SECONDS)
        self._replies.close()
