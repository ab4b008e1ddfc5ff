"""The training loop: AdamW on a one-cycle schedule, averaged weights, curves, and checkpoints to go on from.

Every step draws its randomness from the seed and its own number, so that a run that was interrupted and resumed
ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from tuner.errors import TunerError

_SLOWEST_AVERAGE = 0.9995
_LARGEST_GRADIENT = 1.0
_TRIALS = 6
_BATCHES_AHEAD = 4


class Phase(Protocol):
    """One thing to train.

    Attributes:
        name: Of its checkpoint and its curve.
        model: What is trained and averaged.
        rate: Highest learning rate.
    """

    name: str
    model: nn.Module
    rate: float

    def batch(self, step: int, steps: int) -> Any:
        """What is learnt from at one step of ``steps``: the same whenever it is asked for."""
        ...

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """What the model gets wrong on a batch: ``loss`` is what to lower."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long to train and where to keep what comes of it.

    Attributes:
        folder: Of checkpoints and curves.
        steps: How many; with ``minutes``, at most.
        minutes: As many steps as fit in; 0 does not look at the clock.
        save_seconds: Between two checkpoints.
        log_every: Steps between two points of a curve.
        stop: Asked before every step; true ends the run as an interruption would, after a checkpoint.
    """

    folder: Path
    steps: int
    minutes: float = 0.0
    save_seconds: float = 120.0
    log_every: int = 20
    stop: Callable[[], bool] = lambda: False


class Stopped(TunerError):
    """The run was stopped; its last checkpoint is where the next one goes on."""

    status = "cancelled"


def train(phase: Phase, plan: Plan) -> nn.Module:
    """Train, going on from the last checkpoint.

    Args:
        phase: What.
        plan: How long, and where checkpoints are.

    Returns:
        The averaged model.

    Raises:
        Stopped: ``plan.stop`` said so.
        TunerError: A checkpoint cannot be written or read; the last whole one is kept.
    """
    file = plan.folder / f"{phase.name}.pt"
    saved = load_state(file)
    steps = int(saved["steps"]) if saved else _affordable(phase, plan)
    # The fused kernel writes to all weights at once, and is the fastest both on a CPU and on a card.
    optimizer = AdamW(phase.model.parameters(), lr=phase.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = OneCycleLR(
        optimizer, phase.rate, total_steps=steps, pct_start=min(0.3, 200 / steps), cycle_momentum=False
    )
    average = AveragedModel(phase.model, multi_avg_fn=_average)
    done = 0
    if saved:
        phase.model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = int(saved["step"])
    curve = Curve(plan.folder / f"{phase.name}.jsonl", done)

    def keep() -> None:
        parts = {"model": phase.model, "average": average, "optimizer": optimizer, "schedule": schedule}
        states = {name: part.state_dict() for name, part in parts.items()}
        save_state(file, {"step": done, "steps": steps, **states})

    phase.model.train()
    kept_at = begun_at = time.monotonic()
    begun = done
    for batch in _ahead(phase, done, steps):
        if plan.stop():
            keep()
            raise Stopped(
                f"{phase.name}: stopped after step {done} of {steps}; the same command goes on from there"
            )
        losses = phase.losses(batch)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(phase.model.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        average.update_parameters(phase.model)
        done += 1
        now = time.monotonic()
        if done % plan.log_every == 0 or done == steps:
            values = {name: float(value.detach()) for name, value in losses.items()}
            pace = (done - begun) / (now - begun_at)
            curve.add({"step": done, **values, "gradient": float(norm), "steps_per_second": round(pace, 3)})
        if now - kept_at > plan.save_seconds or done == steps:
            keep()
            kept_at = time.monotonic()
    return average.module


def save_state(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one before it stays until the new one is whole.

    Raises:
        TunerError: It cannot be written, as when the disk is full.
    """
    beside = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        beside.unlink(missing_ok=True)
        kept = "the last one is whole" if file.is_file() else "there is none before it"
        raise TunerError(f"{file.name}: the checkpoint could not be written ({error}); {kept}") from None


def load_state(file: Path) -> dict[str, Any] | None:
    """A checkpoint, or None if there is none yet.

    Raises:
        TunerError: The file is no checkpoint.
    """
    if not file.is_file():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - what a damaged file raises is torch's own affair
        raise TunerError(
            f"{file.name}: not a checkpoint ({type(error).__name__}); remove it to begin anew"
        ) from None


class Curve:
    """Points of a training curve, one JSON object a line.

    Args:
        file: Where.
        done: Steps already done; points behind them, of a run that was interrupted, are dropped.
    """

    def __init__(self, file: Path, done: int) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if done and file.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] <= done]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, point: dict[str, float]) -> None:
        """Append a point and show it.

        Raises:
            TunerError: It cannot be written.
        """
        line = json.dumps(point)
        print(f"{self._file.stem}  {line}", flush=True)
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")
        except OSError as error:
            raise TunerError(f"{self._file.name}: could not be written ({error})") from None


def _ahead(phase: Phase, step: int, steps: int) -> Iterator[Any]:
    """The batches of the steps that are left, made by other threads while the model computes."""
    with ThreadPoolExecutor(_BATCHES_AHEAD, thread_name_prefix="batches") as pool:
        coming: deque[Future[Any]] = deque()
        try:
            for number in range(step, steps):
                coming.append(pool.submit(phase.batch, number, steps))
                if len(coming) > _BATCHES_AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _average(averaged: Any, current: Any, updates: Tensor | int) -> None:
    """A mean over the last steps: a tenth of all there were, at most 2000."""
    count = float(updates)
    weight = 1 - min(_SLOWEST_AVERAGE, (1 + count) / (10 + count))
    for mean, new in zip(averaged, current, strict=True):
        mean.lerp_(new, weight)


def _affordable(phase: Phase, plan: Plan) -> int:
    """Steps that fit into the plan's minutes, by the time that steps spread over the run take."""
    if not plan.minutes:
        return plan.steps
    spread = [int((trial + 0.5) / _TRIALS * plan.steps) for trial in range(_TRIALS)]
    begun = 0.0
    for trial, step in enumerate([*spread, *spread]):
        if trial == _TRIALS:  # the first round warmed up
            begun = time.monotonic()
        loss = phase.losses(phase.batch(step, plan.steps))["loss"]
        loss.backward()
        float(loss.detach())  # a card has computed by then
    seconds = (time.monotonic() - begun) / _TRIALS
    phase.model.zero_grad(set_to_none=True)
    return max(10, min(plan.steps, int(plan.minutes * 60 / seconds)))
