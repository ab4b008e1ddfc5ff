"""A run's events as a progress bar on stderr: stage, steps or frames, time left, memory."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from tuner.meter.events import Event, FramesReady, MemorySample, Noticed, StageStarted, StepDone
from tuner.request import Request
from tuner.settings import GIB

_TERMINAL_SECONDS = 0.1
_FILE_SECONDS = 2.0


class Progress:
    """One bar per stage that has a length; tqdm gives the rate and the time left.

    Args:
        request: Says how many steps and frames there will be.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._bar: tqdm | None = None
        self._peak_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def show(self, event: Event) -> None:
        """Draw what ``event`` changes."""
        match event:
            case StageStarted(stage="denoise"):
                self._open("denoise", self._request.steps, "step")
            case StageStarted(stage="decode"):
                self._open("decode", self._request.frames * self._request.num_clips, "frame")
            case StageStarted(stage=stage):
                self._close()
                tqdm.write(stage, file=sys.stderr)
            case StepDone():
                self._begin_at(event.step - 1)
                self._advance(event.step)
            case FramesReady():
                self._advance(event.done)
            case MemorySample():
                self._peak_bytes = max(self._peak_bytes, event.allocated)
                if self._bar is not None:
                    memory = f"{event.allocated / GIB:.2f} GiB, peak {self._peak_bytes / GIB:.2f} GiB"
                    self._bar.set_postfix_str(memory, refresh=False)
            case Noticed():
                tqdm.write(event.message, file=sys.stderr)
            case _:
                pass

    def _open(self, stage: str, total: int, unit: str) -> None:
        self._close()
        interval = _TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS
        self._bar = tqdm(total=total, desc=stage, unit=unit, file=sys.stderr, mininterval=interval)

    def _begin_at(self, done: int) -> None:
        """The first step of a resumed run is not the first there is: what came before took no time here."""
        if self._bar is not None and self._bar.n == 0:
            self._bar.initial = self._bar.n = done

    def _advance(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
