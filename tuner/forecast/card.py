"""A card that is not there: operations on it give tensors of the right shape, and are written down.

Its tensors are on PyTorch's ``meta`` device. Host tensors too large to be worth making are :class:`HostTensor`;
small ones are real, so that schedulers and tokenizers compute as ever. As on a real card, an operation that mixes
host and card is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tuner.forecast.host import HostTensor, holds_weights, mark_weights
from tuner.forecast.shapes import Shapes, outcome_of
from tuner.forecast.trace import Born, Copied, Died, Entry, Filled, Recorded, Segment, Waited

LARGEST_REAL_BYTES = 1024**2

_Kind = Literal["view", "write", "make"]
_ASK = torch.ops.aten._local_scalar_dense.default
_COPY, _TO_COPY = torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default


class FakeCard(TorchDispatchMode):
    """Records what runs on the card while it is watched; the meter's account of its memory.

    Args:
        is_cpu: The card to be is a CPU, which has another attention kernel.
        shapes: What other cards have worked out; by default nothing.

    Attributes:
        entries: The trace.
        allocated: Bytes in live storages of the card.
        events: How many events its queues have made.
    """

    def __init__(self, is_cpu: bool = False, shapes: Shapes | None = None) -> None:
        super().__init__()
        self.is_cpu = is_cpu
        self.entries: list[Entry] = []
        self.allocated = self.events = 0
        self._peak = 0
        self._born = 0
        self._alive: dict[int, _Watch] = {}
        self._kinds: dict[Any, _Kind] = {}
        self._shapes = shapes or Shapes()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper that sees to it takes a third of the time

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which operations are run on the fake card."""
        with torch.no_grad(), self:
            yield

    def host(self) -> AbstractContextManager[object]:
        """Tensors tell by themselves where they are."""
        return nullcontext()

    def now(self) -> tuple[int, int]:
        """Bytes allocated and reserved."""
        return self.allocated, self.allocated

    def start_peak(self) -> None:
        """Begin a new peak at the bytes held now."""
        self._peak = self.allocated

    def peak(self) -> tuple[int, int]:
        """Highest bytes allocated and reserved since :meth:`start_peak`."""
        return self._peak, self._peak

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def note(self, entry: Entry) -> None:
        """Add to the trace."""
        self.entries.append(entry)

    @contextmanager
    def segment(self, segment: Segment) -> Iterator[None]:
        """Write what happens inside to ``segment`` instead."""
        outer, outer_peak, held = self.entries, self._peak, self.allocated
        self.entries, self._peak = segment.entries, held
        try:
            yield
        finally:
            segment.peak_bytes = self._peak - held
            self.entries, self._peak = outer, max(outer_peak, self._peak)

    def reach(self, more_bytes: int) -> None:
        """The card held so many bytes more for a moment."""
        self._peak = max(self._peak, self.allocated + more_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind_of(func)
        if kind == "view":
            return func(*args, **kwargs)
        inputs = _tensors(args, kwargs)
        if kind == "write":
            return self._write(func, args, kwargs, inputs)
        return self._make(func, args, kwargs, inputs)

    def _write(self, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
        if not any(map(is_fake, inputs)):
            return func(*args, **kwargs)
        target = kwargs["out"] if "out" in kwargs else args[0]
        if func is _COPY and not on_card(args[1]):
            self.filled(target, args[1])
        if func is _COPY and on_card(target) != on_card(args[1]):
            self.note(Copied("h2d" if on_card(target) else "d2h", target.nbytes))
        elif _together_on_card(func, inputs):
            self.note(self._shapes.write(func, args, kwargs, target, inputs))
        return target

    def _make(self, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
        if func is _ASK and on_card(inputs[0]) and inputs[0].dtype == torch.bool:
            # The one thing that models ask: whether a prompt's mask is all ones. It is padded.
            return False
        device = kwargs.get("device")
        to_card = _together_on_card(func, inputs) if device is None else device.type == "meta"
        if not to_card and not any(map(on_card, inputs)):
            return self._make_on_host(func, args, kwargs, inputs)
        outcome = self._shapes.outcome(func, args, kwargs)
        if outcome.alias:
            return func(*args, **kwargs)
        copies = func is _TO_COPY and on_card(inputs[0]) != to_card
        if not to_card:
            if copies:
                self.note(Copied("d2h", outcome.bytes))
            return HostTensor(outcome.make())
        made = outcome.make()
        of_weights = bool(inputs) and all(map(holds_weights, inputs))
        for tensor in made if outcome.several else (made,):
            if isinstance(tensor, Tensor):
                self._birth(tensor, of_weights)
        self.note(Copied("h2d", outcome.bytes) if copies else outcome.cost)
        return made

    def _make_on_host(self, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
        if any(isinstance(tensor, HostTensor) for tensor in inputs):
            return func(*args, **kwargs)
        if inputs and sum(tensor.nbytes for tensor in inputs) <= LARGEST_REAL_BYTES:
            return func(*args, **kwargs)
        outcome = outcome_of(func, args, kwargs)
        if not inputs and outcome.bytes <= LARGEST_REAL_BYTES:
            return func(*args, **kwargs)
        return tree_map_only(Tensor, HostTensor, outcome.make())

    def filled(self, target: Tensor, source: Tensor) -> None:
        """``source``, which is on the host, is copied to ``target``: follow where weights go."""
        if holds_weights(source) and not holds_weights(target):
            mark_weights(target)
            if on_card(target):
                self.note(Filled(self._alive[target.untyped_storage()._cdata].number))

    def _birth(self, tensor: Tensor, of_weights: bool) -> None:
        if of_weights:
            mark_weights(tensor)
        storage = tensor.untyped_storage()
        self._born += 1
        watch = _Watch(storage, self._death)
        watch.key, watch.number, watch.bytes = storage._cdata, self._born, storage.nbytes()
        self._alive[watch.key] = watch
        self.entries.append(Born(watch.number, watch.bytes, of_weights))
        self.allocated += watch.bytes
        self._peak = max(self._peak, self.allocated)

    def _death(self, watch: _Watch) -> None:
        del self._alive[watch.key]
        self.entries.append(Died(watch.number, watch.bytes))
        self.allocated -= watch.bytes


def on_card(tensor: Tensor) -> bool:
    """Whether ``tensor`` lies on the fake card."""
    return tensor.is_meta


def is_fake(tensor: Tensor) -> bool:
    """Whether ``tensor`` has a shape and no bytes."""
    return tensor.is_meta or isinstance(tensor, HostTensor)


def _together_on_card(func: Any, inputs: list[Tensor]) -> bool:
    """Whether the inputs are on the card; a number on the host may go with them."""
    placed = [on_card(tensor) for tensor in inputs]
    if not any(placed):
        return False
    if not all(there or tensor.ndim == 0 for there, tensor in zip(placed, inputs, strict=True)):
        raise RuntimeError(f"{func}: tensors of the host and of the card in one operation")
    return True


class FakeQueues:
    """A fake card's queues: what they do is written down.

    Args:
        card: Keeps the trace.
    """

    def __init__(self, card: FakeCard) -> None:
        self._card = card

    def event(self) -> int:
        """A number of its own."""
        self._card.events += 1
        return self._card.events

    def reached(self, event: int) -> None:
        """Computing has come to ``event``."""
        self._card.note(Recorded(event, "compute"))

    def wait(self, event: int) -> None:
        """Computing waits."""
        self._card.note(Waited(event, "compute"))

    def copy(self, target: Tensor, source: Tensor, after: int, done: int) -> None:
        """Copy ``source``, which is on the host, beside computing."""
        self._card.note(Waited(after, "copy"))
        self._card.note(Copied("h2d", source.nbytes, "copy"))
        self._card.filled(target, source)
        self._card.note(Recorded(done, "copy"))


class _Watch(weakref.ref[torch.UntypedStorage]):
    """Knows what died."""

    __slots__ = ("bytes", "key", "number")
    key: int
    number: int
    bytes: int


class FusedAttention(TorchFunctionMode):
    """Has attention without bytes run as the fused kernel that a card has, not as PyTorch spells it out.

    Spelled out it holds every score: 2,062 GiB at 1024x1024 and 49 frames.

    Args:
        is_cpu: Whether the kernel is the CPU's.
    """

    def __init__(self, is_cpu: bool) -> None:
        super().__init__()
        self._is_cpu = is_cpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            if on_card(query):
                return self._fused(*args, **kwargs)
        return func(*args, **kwargs)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        aten, settings = torch.ops.aten, torch.backends.cuda
        if not settings.flash_sdp_enabled() and not settings.mem_efficient_sdp_enabled():
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            heads = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(heads, -3), value.repeat_interleave(heads, -3)
        if self._is_cpu:
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        if attn_mask is not None or query.dtype == torch.float32:
            return aten._scaled_dot_product_efficient_attention(
                query, key, value, attn_mask, False, 0.0, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]


def _kind_of(func: Any) -> _Kind:
    infos = [result.alias_info for result in func._schema.returns]
    if any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments):
        return "write"
    return "view" if any(info is not None for info in infos) else "make"


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    found = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found
