"""What a generation will cost on a card, which need not be there."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import torch

from tuner.engine.transformer import check_attention
from tuner.errors import BadInput
from tuner.forecast.allocator import Allocator, CachingAllocator, ExactAllocator
from tuner.forecast.clock import Clock, Efficiency
from tuner.forecast.components import fake_components
from tuner.forecast.learning import Learned, WasLearned
from tuner.forecast.ledger import Ledger, Split
from tuner.forecast.rehearsal import Rehearsal, rehearse
from tuner.forecast.shapes import Shapes
from tuner.forecast.timeline import Moment, moments, stretched
from tuner.hardware import Card, find_card
from tuner.meter.events import Stage
from tuner.meter.measured import TransfersMeasured
from tuner.models.components import Components
from tuner.models.registry import ModelInfo, find_model
from tuner.request import FILES, Request
from tuner.settings import Settings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OF_OTHER_PACKAGES = ("flash", "sage", "xformers")
_KEPT_MODELS, _KEPT_REHEARSALS, _KEPT_FORECASTS = 2, 8, 512

T = TypeVar("T")


@dataclass(frozen=True)
class StageForecast:
    """One stage.

    Attributes:
        name: As in events.
        seconds: How long it takes.
        peak_allocated_bytes: Highest bytes in live tensors.
        peak_reserved_bytes: Highest bytes that PyTorch's allocator holds.
        split: What the allocated bytes are for at their peak.
        transfers: Copies between host and device.
    """

    name: Stage
    seconds: float
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    split: Split
    transfers: TransfersMeasured


@dataclass(frozen=True)
class Forecast:
    """What a run will cost.

    Attributes:
        gpu: The card asked for.
        fits: Whether it has the memory.
        peak_allocated_bytes: Highest bytes in live tensors.
        peak_reserved_bytes: Highest bytes that PyTorch's allocator holds; the CUDA context comes on top.
        fragmentation: (reserved - allocated) / reserved at their peaks.
        seconds: The whole run, without loading the model and without writing the clip.
        step_seconds: Of every denoising step.
        stages: Encode text, encode image, denoise, decode.
        short_bytes: What the card has too little; 0 when it fits.
        cache_bytes: Highest bytes that each cache level holds.
        learned: What finished runs on that card changed about the seconds; None when nothing did.
    """

    gpu: str
    fits: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    fragmentation: float
    seconds: float
    step_seconds: list[float]
    stages: list[StageForecast]
    short_bytes: int
    cache_bytes: dict[str, int]
    learned: WasLearned | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``tuner forecast --json`` prints it."""
        values = asdict(self)
        del values["short_bytes"], values["cache_bytes"]
        if self.learned is None:
            del values["learned"]
        return values


class _Recent(Generic[T]):
    """The last few values that were made, by their keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]


class Forecaster:
    """Forecasts, and remembers: models, rehearsals, and what came of them. May be asked from several threads.

    Args:
        efficiency: How much of a card's data sheet programs get.
        learned: What finished runs taught; may be replaced at any time.
    """

    def __init__(self, efficiency: Efficiency | None = None, learned: Learned | None = None) -> None:
        self.learned = learned or Learned()
        self._efficiency = efficiency or Efficiency()
        self._models: _Recent[Components] = _Recent(_KEPT_MODELS)
        self._rehearsals: _Recent[Rehearsal] = _Recent(_KEPT_REHEARSALS)
        self._forecasts: _Recent[Forecast] = _Recent(_KEPT_FORECASTS)
        self._shapes = Shapes()
        self._lock = threading.Lock()

    def forecast(
        self,
        request: Request,
        settings: Settings,
        *,
        model: str | Path = "demo",
        gpu: str = "cpu",
        memory_bytes: int | None = None,
        expandable_segments: bool = True,
        should_stop: Callable[[], bool] | None = None,
    ) -> Forecast:
        """What making ``request`` with ``settings`` will cost. No GPU, no weights and no network are needed.

        Args:
            request: Of its pictures and clips only matters that there are some; they are not opened.
            settings: The knobs.
            model: Name or folder.
            gpu: Name of a card in :data:`tuner.hardware.CARDS`.
            memory_bytes: As if the card had this much memory altogether; None takes what it has.
            expandable_segments: As PyTorch's allocator is configured; ``import tuner`` does so on Linux.
            should_stop: Asked now and then; True ends it, and nothing half made is remembered.

        Raises:
            BadInput: There is no such model or card, they do not suit the request, or the card cannot compute in
                the precision that is set.
            Cancelled: ``should_stop`` said so.
        """
        card, info = find_card(gpu).with_memory(memory_bytes), find_model(model)
        key = info, _key_of(request), settings, card.name, memory_bytes, expandable_segments
        with self._lock:
            unlearned = self._forecasts.get(
                key,
                lambda: self._made(
                    card, self.rehearsal(request, settings, info, card, should_stop), expandable_segments
                ),
            )
        return _with_learned(unlearned, self.learned.factors(unlearned.to_json(), settings, info.name))

    def timeline(
        self,
        request: Request,
        settings: Settings,
        *,
        model: str | Path = "demo",
        gpu: str = "cpu",
        expandable_segments: bool = True,
    ) -> list[Moment]:
        """The card's memory over the run, moment by moment; as :meth:`forecast` otherwise."""
        card, info = find_card(gpu), find_model(model)
        with self._lock:
            run = self.rehearsal(request, settings, info, card)
            unlearned = self._made(card, run, expandable_segments)
        learned = self.learned.factors(unlearned.to_json(), settings, info.name)
        found = moments(
            run.entries,
            Ledger(allocator := _allocator(card, expandable_segments), card.workspace_bytes),
            Clock(card, self._efficiency, run.steps),
            allocator,
        )
        return stretched(found, {name: of["factor"] for name, of in learned["stages"].items()} if learned else {})

    def rehearsal(
        self,
        request: Request,
        settings: Settings,
        info: ModelInfo,
        card: Card,
        should_stop: Callable[[], bool] | None = None,
    ) -> Rehearsal:
        """The engine's run on a fake card of this kind."""
        if request.frames > info.max_frames:
            raise BadInput("frames", request.frames, f"at most {info.max_frames} with this model")
        precision = card.check_precision(settings.precision)
        if card.is_cpu:
            check_attention(settings.attention, torch.device("cpu"))
        changes = {"precision": "auto"}
        if settings.attention in _OF_OTHER_PACKAGES:
            # Their kernels hold what PyTorch's own hold, and cannot be run without a card.
            changes["attention"] = "native"
        settings = settings.replace(**changes)
        components = self._models.get((info, precision), partial(fake_components, info, _DTYPES[precision]))
        key = info, precision, _key_of(request), settings, card.is_cpu
        make = partial(rehearse, request, settings, components, card.is_cpu, should_stop, self._shapes)
        return self._rehearsals.get(key, make)

    def _made(self, card: Card, run: Rehearsal, expandable_segments: bool) -> Forecast:
        allocator = _allocator(card, expandable_segments)
        memory = Ledger(allocator, card.workspace_bytes).replay(run.entries)
        clock = Clock(card, self._efficiency, run.steps)
        times = clock.run(run.entries)
        allocated, reserved = max(stage.allocated for stage in memory), max(stage.reserved for stage in memory)
        short = max(0, allocated - psutil.virtual_memory().total) if card.is_cpu else allocator.short
        return Forecast(
            gpu=card.name,
            fits=not short,
            peak_allocated_bytes=allocated,
            peak_reserved_bytes=reserved,
            fragmentation=(reserved - allocated) / reserved if reserved else 0.0,
            seconds=clock.seconds,
            step_seconds=clock.step_seconds,
            stages=[
                StageForecast(
                    held.stage, timed.seconds, held.allocated, held.reserved, held.split, timed.transfers
                )
                for held, timed in zip(memory, times, strict=True)
            ],
            short_bytes=short,
            cache_bytes={level: used["peak_bytes"] for level, used in run.measured["cache"].items()},
        )


def _with_learned(forecast: Forecast, learned: WasLearned | None) -> Forecast:
    """The same memory, with each stage's seconds as finished runs had them."""
    if learned is None:
        return forecast
    factors = {name: of["factor"] for name, of in learned["stages"].items()}
    stages = [replace(stage, seconds=stage.seconds * factors.get(stage.name, 1.0)) for stage in forecast.stages]
    more = sum(after.seconds - before.seconds for before, after in zip(forecast.stages, stages, strict=True))
    return replace(
        forecast,
        seconds=forecast.seconds + more,
        step_seconds=[seconds * factors.get("denoise", 1.0) for seconds in forecast.step_seconds],
        stages=stages,
        learned=learned,
    )


def _allocator(card: Card, expandable_segments: bool) -> Allocator:
    return ExactAllocator() if card.is_cpu else CachingAllocator(card.usable_bytes, expandable_segments)


@cache
def shared_forecaster() -> Forecaster:
    """The one that :func:`forecast` asks."""
    return Forecaster()


def forecast(
    request: Request, settings: Settings | None = None, *, model: str | Path = "demo", gpu: str = "cpu"
) -> Forecast:
    """What a generation will cost on a card that need not be there; see :meth:`Forecaster.forecast`."""
    return shared_forecaster().forecast(request, settings or Settings(), model=model, gpu=gpu)


def _key_of(request: Request) -> str:
    """Equal for requests that cost the same: neither pictures' contents nor words nor seeds matter."""
    values = request.model_dump(mode="python")
    for name in FILES:
        values[name] = values[name] is not None
    values["prompt"] = request.prompt == request.negative_prompt
    for name in ("negative_prompt", "seed", "fps"):
        del values[name]
    values["guidance"] = request.guidance > 1
    return json.dumps(values, sort_keys=True, default=str)
