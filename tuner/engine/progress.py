"""How far denoising came, as a file: latents, what the scheduler remembers, the state of the random numbers.

A run that goes on from it gives the clip that the first one would have given: a scheduler's state is all
that differs between the one in use and one just made, and it is put back onto one just made.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tuner.engine.placement import Placement
from tuner.errors import BadInput
from tuner.models.components import Components
from tuner.request import FILES, PICTURES, Request, open_clip, open_picture

_FORMAT = "1"
_FACTS = ("model", "loras", "request", "precision", "done", "steps", "scheduler")
_LATENTS, _RANDOM = "latents", "random.{}"


@dataclass(frozen=True)
class Progress:
    """What a run needs to go on from the last denoising step that was taken.

    Attributes:
        model: Name of the model.
        loras: Files merged into it, and how much of each.
        request: Digest of what was asked for.
        precision: Of the model.
        done: Steps taken.
        steps: Steps there are to take.
        latents: ``[clips, 16, t, h, w]`` after step ``done``, on the host.
        random: State of each clip's random numbers.
        scheduler: What the scheduler remembers; tensors by their place in ``tensors``.
        tensors: The tensors among that, on the host.
    """

    model: str
    loras: dict[str, float]
    request: str
    precision: str
    done: int
    steps: int
    latents: Tensor
    random: list[Tensor]
    scheduler: dict[str, Any]
    tensors: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write everything to ``path``, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        facts = {name: getattr(self, name) for name in _FACTS}
        random = {_RANDOM.format(clip): state for clip, state in enumerate(self.random)}
        tensors = {_LATENTS: self.latents, **random, **self.tensors}
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(save(tensors, {"format": _FORMAT, "progress": json.dumps(facts)}))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            BadInput: The file is missing, damaged, or from a newer version.
        """
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata() or {}
                if found.get("format") != _FORMAT:
                    raise BadInput("resume", path, "latents that this version of EasyAnimate Tuner kept")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError):
            raise BadInput("resume", path, "latents that were kept whole") from None
        latents = tensors.pop(_LATENTS)
        random = [tensors.pop(_RANDOM.format(clip)) for clip in range(len(latents))]
        return cls(**json.loads(found["progress"]), latents=latents, random=random, tensors=tensors)

    def check(self, request: Request, components: Components) -> None:
        """Refuse to go on with anything but what these latents were made for.

        Raises:
            BadInput: The request, the model, or what is merged into it is another one.
        """
        if self.model != components.name:
            raise BadInput("model", components.name, f"{self.model}, with which these latents were made")
        if self.loras != _merged(components):
            given, made = (", ".join(loras) or "none" for loras in (_merged(components), self.loras))
            raise BadInput("loras", given, f"{made}, with which these latents were made")
        if self.request != request_digest(request):
            raise BadInput("request", "another request", "the one that these latents were made for")

    def restore(
        self, scheduler: Any, generators: list[torch.Generator], dtype: torch.dtype, placement: Placement
    ) -> Tensor:
        """Put everything back.

        Args:
            scheduler: One just made, with its timesteps set.
            generators: One per clip.
            dtype: Of the model; what was reached in another precision is cast.
            placement: What is as large as the latents goes to its device.

        Returns:
            The latents on the device.
        """

        def placed(tensor: Tensor) -> Tensor:
            on_device = placement.to_device(tensor)
            return on_device if self.precision == str(dtype) else on_device.to(dtype)

        def unpacked(value: Any) -> Any:
            if isinstance(value, list):
                return [unpacked(item) for item in value]
            if not isinstance(value, dict):
                return value
            tensor = self.tensors[value["tensor"]]
            return placed(tensor) if tensor.shape == self.latents.shape else tensor

        for name, value in self.scheduler.items():
            setattr(scheduler, name, unpacked(value))
        for generator, state in zip(generators, self.random, strict=True):
            generator.set_state(state)
        return placed(self.latents)


class ProgressKeeper:
    """Keeps what denoising has reached in a file, step by step.

    Args:
        path: The file.
        request: What is being made.
        components: With what.
        scheduler: One just made: only what will differ from it is kept.
        generators: One per clip.
        placement: Brings tensors to the host.
    """

    def __init__(
        self,
        path: Path,
        request: Request,
        components: Components,
        scheduler: Any,
        generators: list[torch.Generator],
        placement: Placement,
    ) -> None:
        self._path, self._components, self._placement = path, components, placement
        self._scheduler, self._generators = scheduler, generators
        self._request = request_digest(request)
        self._fresh = copy.deepcopy(vars(scheduler))
        self._writable = True

    def keep(self, steps: int, done: int, latents: Tensor) -> None:
        """Write down the state after step ``done`` of ``steps``.

        A disk that cannot take it is told once, and is no obstacle.
        """
        if not self._writable:
            return
        tensors: dict[str, Tensor] = {}

        def packed(value: Any) -> Any:
            if isinstance(value, Tensor):
                name = f"scheduler.{len(tensors)}"
                tensors[name] = self._placement.to_host(value)
                return {"tensor": name}
            return [packed(item) for item in value] if isinstance(value, list | tuple) else value

        changed = {
            name: packed(value)
            for name, value in vars(self._scheduler).items()
            if name not in self._fresh or not _same(value, self._fresh[name])
        }
        progress = Progress(
            model=self._components.name,
            loras=_merged(self._components),
            request=self._request,
            precision=str(self._components.dtype),
            done=done,
            steps=steps,
            latents=self._placement.to_host(latents),
            random=[generator.get_state() for generator in self._generators],
            scheduler=changed,
            tensors=tensors,
        )
        try:
            progress.save(self._path)
        except OSError as error:
            self._writable = False
            self._placement.meter.notice(f"the latents are not kept: cannot write {self._path}: {error.strerror}")


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, list | tuple):
        return type(value) is type(other) and len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and torch.equal(value, other)
    if isinstance(value, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(value, other)
    return value == other


def _merged(components: Components) -> dict[str, float]:
    return {str(file): weight for file, weight in components.loras}


def request_digest(request: Request) -> str:
    """A word that another request, or one with another picture or clip in it, does not have."""
    digest = hashlib.sha256(json.dumps(request.model_dump(mode="json", exclude=set(FILES))).encode())
    for name in FILES:
        given = getattr(request, name)
        if given is None:
            continue
        digest.update(name.encode())
        if name in PICTURES:
            picture = open_picture(name, given)
            digest.update(repr(picture.size).encode())
            digest.update(picture.tobytes())
        elif isinstance(given, np.ndarray):
            digest.update(repr(given.shape).encode())
            digest.update(np.ascontiguousarray(given).tobytes())
        else:
            with open_clip(given):
                digest.update(Path(given).read_bytes())
    return digest.hexdigest()
