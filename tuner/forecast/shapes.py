"""What an operation gives for inputs of given shapes, and what it costs: worked out once, then remembered."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry

from tuner.forecast.trace import Ran, Work


class Form(NamedTuple):
    """What can be known of a tensor without its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


_META = torch.device("meta")

# Channels times frames times rows: for a batch of one that has no more, PyTorch on a CPU does not ask oneDNN, and
# takes up to 15 times as long (read off its timings on both sides of every such size tried).
_SMALL_CONVOLUTION = 20_480

_COUNTS = {
    **flop_registry,
    # PyTorch counts every attention kernel but the CPU's, which takes the same arguments as this one.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
}


class Outcome(NamedTuple):
    """What one call gives.

    Attributes:
        results: The tensors it makes, by their forms, and what else it returns.
        several: Whether they come as a tuple.
        alias: Whether the result is a view of an input, so that the call itself has to be made.
        cost: What the call costs on a card.
        bytes: What the tensors it makes take.
    """

    results: list[Any]
    several: bool
    alias: bool
    cost: Ran
    bytes: int

    def make(self) -> Any:
        """New tensors of these forms."""
        made = [
            torch.empty_strided(result.shape, result.stride, dtype=result.dtype, device=_META)
            if type(result) is Form
            else result
            for result in self.results
        ]
        return tuple(made) if self.several else made[0]


class Shapes:
    """Remembers what operations give and cost."""

    def __init__(self) -> None:
        self._outcomes: dict[Any, Outcome] = {}
        self._writes: dict[Any, Ran] = {}

    def outcome(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Outcome:
        """What a call gives that makes new tensors."""
        key = func, signature(args), tuple((name, signature(value)) for name, value in kwargs.items())
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = outcome_of(func, args, kwargs)
        return outcome

    def write(self, func: Any, args: Any, kwargs: dict[str, Any], target: Any, inputs: list[Tensor]) -> Ran:
        """What a call costs that writes to ``target``."""
        key = func, signature(args)
        cost = self._writes.get(key)
        if cost is None:
            cost = self._writes[key] = cost_of(func, args, kwargs, target, inputs)
        return cost


def signature(value: Any) -> Any:
    """A hashable stand-in for an argument, equal for arguments that give results of the same form."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(signature(item) for item in value)
    return (type(value), value) if isinstance(value, int | float) else value


def outcome_of(func: Any, args: Any, kwargs: dict[str, Any]) -> Outcome:
    """Run ``func`` on tensors without bytes that look like its arguments."""
    shadows: dict[int, Tensor] = {}

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            if isinstance(value, torch.Generator):
                return None
            return _META if isinstance(value, torch.device) else value
        found = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
        shadows[found.untyped_storage()._cdata] = found
        return found

    inputs, named = tree_map(shadow, args), tree_map(shadow, kwargs)
    result = func(*inputs, **named)
    several = isinstance(result, tuple | list)
    outputs = list(result) if several else [result]
    tensors = [value for value in outputs if isinstance(value, Tensor)]
    return Outcome(
        results=[
            Form(value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value
            for value in outputs
        ],
        several=several,
        alias=any(value.untyped_storage()._cdata in shadows for value in tensors),
        cost=cost_of(func, inputs, named, result, [*shadows.values(), *tensors]),
        bytes=sum(value.untyped_storage().nbytes() for value in tensors),
    )


def cost_of(func: Any, args: Any, kwargs: dict[str, Any], result: Any, moved: list[Tensor]) -> Ran:
    """What one call costs.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its named arguments.
        result: What it gives.
        moved: The tensors that are read or written.
    """
    packet = func.overloadpacket
    count = _COUNTS.get(packet)
    flops = int(count(*args, **kwargs, out_val=result)) if count else 0
    name = packet.__name__
    dtype = next((tensor.dtype for tensor in moved if tensor.dtype.is_floating_point), torch.int64)
    work = _work(name, args, result) if flops else "other"
    return Ran(name, work, dtype, flops, sum(tensor.nbytes for tensor in moved))


def _work(name: str, args: Any, result: Any) -> Work:
    if "attention" in name:
        return "attention"
    if "conv" not in name:
        return "matmul"
    batch, *sizes = args[0].shape[:4]
    small = result.ndim == 5 and batch == 1 and math.prod(sizes) <= _SMALL_CONVOLUTION
    return "small convolution3d" if small else "convolution"
