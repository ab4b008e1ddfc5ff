"""Copies between host and device, counted from outside: whoever makes them, diffusers' own forwards as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tuner.meter.events import Direction
from tuner.meter.measured import TransfersMeasured

_MADE = torch.ops.aten._to_copy.default
_FILLED = torch.ops.aten.copy_.default


class Copies(TorchDispatchMode):
    """Watches every operation of this thread for tensors that go from one device to another.

    On a machine where host and device are both the CPU it sees nothing; there ``meta`` can stand for the device
    (see :mod:`tuner.bench.paper`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted: TransfersMeasured = no_transfers()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is _MADE:
            self._copied(args[0], out)
        elif func is _FILLED and isinstance(args[1], Tensor):
            self._copied(args[1], args[0])
        return out

    def _copied(self, source: Tensor, target: Tensor) -> None:
        if source.device.type != target.device.type:
            direction: Direction = "h2d" if source.device.type == "cpu" else "d2h"
            self.counted = plus(self.counted, one_way(direction, 1, source.nbytes))


def no_transfers() -> TransfersMeasured:
    """Nothing copied."""
    return {"h2d_count": 0, "h2d_bytes": 0, "d2h_count": 0, "d2h_bytes": 0}


def one_way(direction: Direction, count: int, bytes_: int) -> TransfersMeasured:
    """So many copies in one direction."""
    up, down = ((count, bytes_), (0, 0)) if direction == "h2d" else ((0, 0), (count, bytes_))
    return {"h2d_count": up[0], "h2d_bytes": up[1], "d2h_count": down[0], "d2h_bytes": down[1]}


def plus(one: TransfersMeasured, other: TransfersMeasured) -> TransfersMeasured:
    """The copies of both."""
    return {
        "h2d_count": one["h2d_count"] + other["h2d_count"],
        "h2d_bytes": one["h2d_bytes"] + other["h2d_bytes"],
        "d2h_count": one["d2h_count"] + other["d2h_count"],
        "d2h_bytes": one["d2h_bytes"] + other["d2h_bytes"],
    }


def minus(one: TransfersMeasured, other: TransfersMeasured) -> TransfersMeasured:
    """The copies of ``one`` that were made after ``other`` was counted."""
    return {
        "h2d_count": one["h2d_count"] - other["h2d_count"],
        "h2d_bytes": one["h2d_bytes"] - other["h2d_bytes"],
        "d2h_count": one["d2h_count"] - other["d2h_count"],
        "d2h_bytes": one["d2h_bytes"] - other["d2h_bytes"],
    }
