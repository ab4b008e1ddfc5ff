"""The training loop: steps on a schedule, averaged weights, curves, and checkpoints to go on from.

Every step draws its randomness from the seed and its own number, so that a run that was interrupted and resumed
ends with the same weights as one that was not.
"""

from __future__ import annotations

import itertools
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
from torch.optim.swa_utils import AveragedModel

from tuner.demo.curve import Curve
from tuner.demo.optimizer import Optimizer
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
        """What is learnt from at one of ``steps``: the same whenever it is asked for."""
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
        parts: Batches that a step learns from.
        save_seconds: Between two checkpoints.
        log_every: Steps between two points of a curve.
        stop: Asked before every step; true ends the run as an interruption would, after a checkpoint.
    """

    folder: Path
    steps: int
    minutes: float = 0.0
    parts: int = 1
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
    optimizer = Optimizer(phase.model, phase.rate, steps)
    average = AveragedModel(phase.model, multi_avg_fn=_average)
    done = 0
    if saved:
        phase.model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        done = int(saved["step"])
    curve = Curve(plan.folder / f"{phase.name}.jsonl", done)

    def keep() -> None:
        parts = {"model": phase.model, "average": average, "optimizer": optimizer}
        states = {name: part.state_dict() for name, part in parts.items()}
        save_state(file, {"step": done, "steps": steps, **states})

    phase.model.train()
    kept_at = logged_at = time.monotonic()
    logged: list[dict[str, Tensor]] = []
    with _Gradients(phase, plan.parts) as gradients:
        for batches in _ahead(phase, plan.parts, done, steps):
            if plan.stop():
                keep()
                raise Stopped(
                    f"{phase.name}: stopped after step {done} of {steps}; the same command goes on from there"
                )
            logged += gradients.of(batches)
            # Of what is trained: a part that stays as it is may still carry the gradients of an earlier phase.
            norm = nn.utils.clip_grad_norm_(gradients.weights, _LARGEST_GRADIENT)
            optimizer.step(done)
            average.update_parameters(phase.model)
            done += 1
            if done % plan.log_every == 0 or done == steps:
                now = time.monotonic()
                values = {name: float(torch.stack([each[name] for each in logged]).mean()) for name in logged[0]}
                pace = len(logged) / plan.parts / (now - logged_at)
                curve.add({"step": done, **values, "gradient": float(norm), "steps_per_second": round(pace, 3)})
                logged, logged_at = [], now
            if time.monotonic() - kept_at > plan.save_seconds or done == steps:
                keep()
                kept_at = time.monotonic()
    return average.module


class _Gradients:
    """Gradients of a step's batches, averaged.

    On a CPU every batch has a core of its own: cores that meet once a step, not in every operation, were measured
    to do two and a half times as much beside other programs.

    Attributes:
        weights: What is trained.
    """

    def __init__(self, phase: Phase, parts: int) -> None:
        self._phase, self._parts = phase, parts
        self.weights = [weight for weight in phase.model.parameters() if weight.requires_grad]
        on_host = self.weights[0].device.type == "cpu"
        self._pool = (
            ThreadPoolExecutor(parts, "gradients", initializer=torch.set_num_threads, initargs=(1,))
            if on_host and parts > 1
            else None
        )

    def __enter__(self) -> _Gradients:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def of(self, batches: list[Any]) -> list[dict[str, Tensor]]:
        """Put them where an optimiser looks for them; gives each batch's losses."""
        found = list((self._pool.map if self._pool else map)(self._one, batches))
        for weight, *each in zip(self.weights, *(gradients for _, gradients in found), strict=True):
            given = [gradient for gradient in each if gradient is not None]
            weight.grad = sum(given[1:], given[0]) / self._parts if given else None
        return [losses for losses, _ in found]

    def _one(self, batch: Any) -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
        losses = self._phase.losses(batch)
        gradients = torch.autograd.grad(losses["loss"], self.weights, allow_unused=True)
        return {name: value.detach() for name, value in losses.items()}, gradients


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


def _ahead(phase: Phase, parts: int, step: int, steps: int) -> Iterator[list[Any]]:
    """The batches of the steps that are left, made by other threads while the model computes."""
    # As of gradients: on a CPU that has a core for every part, threads that all ask for every core are in each
    # other's way.
    alone = {"initializer": torch.set_num_threads, "initargs": (1,)} if parts > 1 else {}
    with ThreadPoolExecutor(_BATCHES_AHEAD, "batches", **alone) as pool:
        coming: deque[list[Future[Any]]] = deque()
        try:
            for number in range(step, steps):
                numbers = range(number * parts, (number + 1) * parts)
                coming.append([pool.submit(phase.batch, each, steps * parts) for each in numbers])
                if len(coming) > _BATCHES_AHEAD:
                    yield [each.result() for each in coming.popleft()]
            while coming:
                yield [each.result() for each in coming.popleft()]
        finally:
            for future in itertools.chain.from_iterable(coming):
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
    numbers = plan.steps * plan.parts
    spread = [int((trial + 0.5) / _TRIALS * numbers) for trial in range(_TRIALS)]
    begun = 0.0
    with _Gradients(phase, plan.parts) as gradients:
        for trial, number in enumerate([*spread, *spread]):
            if trial == _TRIALS:  # the first round warmed up
                begun = time.monotonic()
            losses = gradients.of([phase.batch(number, numbers)] * plan.parts)
            float(losses[0]["loss"])  # a card has computed by then
    seconds = (time.monotonic() - begun) / _TRIALS
    phase.model.zero_grad(set_to_none=True)
    return max(10, min(plan.steps, int(plan.minutes * 60 / seconds)))
