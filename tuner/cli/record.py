"""The record of ``tuner run``: the same row and folder that a run of the page gets."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner.cli.plan import Plan
from tuner.errors import TunerError
from tuner.machine import card_of, this_machine
from tuner.meter.events import Event, Finished, to_json
from tuner.runs.endings import ending_of, keep_traceback
from tuner.runs.lessons import Lessons
from tuner.runs.recorder import Recorder, new_run_id
from tuner.runs.store import Store, numbered, writing

_VIDEO = "video.mp4"


class Record:
    """The run in the page's store; a store that cannot be written is a warning, no obstacle.

    Args:
        plan: The run that begins.
    """

    def __init__(self, plan: Plan) -> None:
        self._store: Store | None = None
        self._recorder: Recorder | None = None
        self.run_id = new_run_id()
        try:
            self._store = Store()
            self._recorder = Recorder(
                self._store,
                plan.model,
                plan.request,
                plan.settings,
                plan.preset,
                "running",
                self.run_id,
                {str(file): weight for file, weight in plan.loras},
                plan.resumes,
            )
        except TunerError as error:
            self._warn(error)

    @property
    def latents(self) -> Path | None:
        """Where the latents reached are to be kept; None when nothing is recorded."""
        return self._recorder.latents if self._recorder else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder and error is not None:
            if not isinstance(error, TunerError | KeyboardInterrupt):
                keep_traceback(self._recorder.folder, error)
            with self._warned():
                self._recorder.fail(*ending_of(error))
        if self._store:
            self._store.close()

    def tell(self, event: Event) -> None:
        """Record one event."""
        if self._recorder:
            with self._warned():
                self._recorder.tell(to_json(event))

    def finish(self, event: Finished, videos: list[Path]) -> None:
        """Record the end, with copies of the clips that the page can play."""
        if self._recorder:
            first = self._recorder.folder / _VIDEO
            copies = [numbered(first, number) for number in range(1, len(videos) + 1)]
            try:
                for video, copy in zip(videos, copies, strict=True):
                    with writing(copy):
                        shutil.copyfile(video, copy)
            except TunerError as error:
                print(f"warning: the page cannot play this clip: {error}", file=sys.stderr)
                for copy in copies:
                    copy.unlink(missing_ok=True)
                first = videos[0]
            self.tell(replace(event, video=str(first)))

    def foresee(self, plan: Plan) -> dict[str, Any] | None:
        """Record what the run was to be forecast to cost on this machine, and give it as JSON.

        Asked for afterwards, so that the run has the machine for itself. None for a run that went on from
        latents, and on a card that no table knows.
        """
        card = card_of(this_machine())
        if card is None or plan.resumes is not None:
            return None
        from tuner.forecast.forecast import Forecaster

        try:
            learned = Lessons(self._store).learned() if self._store else None
            forecaster = Forecaster(learned=learned)
            answer = forecaster.forecast(plan.request, plan.settings, model=plan.model, gpu=card.name).to_json()
        except TunerError as error:
            print(f"warning: no forecast: {error}", file=sys.stderr)
            return None
        if self._recorder:
            with self._warned():
                self._recorder.foresee(answer)
        return answer

    @contextmanager
    def _warned(self) -> Iterator[None]:
        try:
            yield
        except TunerError as error:
            self._warn(error)
            self._recorder = None

    def _warn(self, error: TunerError) -> None:
        print(f"warning: this run will not be in the history: {error}", file=sys.stderr)
