"""Where forecasts are asked for: a process of their own answers, the newest question of each asker first.

A forecast holds Python's lock for a second or more when it is new, which would stop a page or a run; here it
stops nobody.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Self

from tuner.errors import TunerError
from tuner.forecast.clerk import serve
from tuner.forecast.learning import Learned
from tuner.forecast.questions import Answer, Question

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the server's threads' locks
_MOST_WAITING = 32
_CLOSE_SECONDS = 2.0


@dataclass
class _Asked:
    asker: str
    question: Question
    future: Future[Answer] = field(default_factory=Future)


class Desk:
    """Answers questions one at a time, in the order they came. May be asked from several threads.

    An asker's new question takes the place of the one that waits, whose future is cancelled, and stops the one
    that is being answered, which ends as Cancelled. The process is started by the first question, and again
    after it died.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, _Asked] = OrderedDict()
        self._current: _Asked | None = None
        self._thread: threading.Thread | None = None
        self._clerk: _Clerk | None = None
        self._lessons: Callable[[], Learned] = Learned
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def learn_from(self, lessons: Callable[[], Learned]) -> None:
        """Have every question that is asked from now on answered with what finished runs taught.

        Args:
            lessons: Asked with each question, so that a run that has just ended counts.
        """
        self._lessons = lessons

    def ask(self, asker: str, question: Question) -> Future[Answer]:
        """Ask, in place of what ``asker`` asked before.

        Returns:
            The answer to come, or the TunerError that says why there is none.
        """
        asked = _Asked(asker, replace(question, learned=self._lessons()))
        with self._changed:
            if self._closed:
                asked.future.cancel()
                return asked.future
            self._withdraw(asker)
            if len(self._waiting) == _MOST_WAITING:
                self._waiting.popitem(last=False)[1].future.cancel()
            self._waiting[asker] = asked
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="tuner forecasts", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return asked.future

    def close(self) -> None:
        """Answer no more and end the process."""
        with self._changed:
            self._closed = True
            for asked in self._waiting.values():
                asked.future.cancel()
            self._waiting.clear()
            if self._clerk is not None:
                self._clerk.stop()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _withdraw(self, asker: str) -> None:
        older = self._waiting.pop(asker, None)
        if older is not None:
            older.future.cancel()
        if self._current is not None and self._current.asker == asker and self._clerk is not None:
            self._clerk.stop()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    break
                _, asked = self._waiting.popitem(last=False)
                if not asked.future.set_running_or_notify_cancel():
                    continue
                if self._clerk is None:
                    self._clerk = _Clerk()
                self._clerk.begin()
                self._current = asked
            self._answer(asked, self._clerk)
            with self._changed:
                self._current = None
        if self._clerk is not None:
            self._clerk.close()

    def _answer(self, asked: _Asked, clerk: _Clerk) -> None:
        try:
            kind, content = clerk.answer(asked.question)
        except (EOFError, OSError):
            clerk.close()
            self._clerk = None
            asked.future.set_exception(TunerError("the forecast's process ended; move a knob to try again"))
            return
        if kind == "answer":
            asked.future.set_result(content)
        else:
            asked.future.set_exception(content)


class _Clerk:
    """The process, seen from here."""

    def __init__(self) -> None:
        their_questions, self._questions = _SPAWN.Pipe(duplex=False)
        self._answers, their_answers = _SPAWN.Pipe(duplex=False)
        self._stop = _SPAWN.RawValue("b", 0)
        self._process = _SPAWN.Process(
            target=serve, args=(their_questions, their_answers, self._stop), name="tuner forecast", daemon=True
        )
        self._process.start()
        # Only the process holds these ends now: when it dies, reading meets the end of the pipe.
        their_questions.close()
        their_answers.close()

    def begin(self) -> None:
        """Forget that the question before was to be stopped."""
        self._stop.value = 0

    def stop(self) -> None:
        """Nobody wants the answer that is being worked out."""
        self._stop.value = 1

    def answer(self, question: Question) -> tuple[str, Any]:
        """The process's reply: ``answer`` and JSON, or ``refused`` and a TunerError."""
        self._questions.send(question)
        return self._answers.recv()

    def close(self) -> None:
        """End the process."""
        self._questions.close()
        self._process.join(_CLOSE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._answers.close()
