"""Weights on the device: packed modules, and blocks of which a prefix stays and the rest streams.

Blocks are visited in the same order every step. On such a cyclic scan an LRU cache misses every time;
keeping a fixed prefix is the optimum (Belady 1966), so that is what ``cache_capacity`` buys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tuner.engine.placement import Placement
from tuner.meter.meter import CacheCounter

_ALIGNMENT_BYTES = 256
_PACKED = "_tuner_packed"


@dataclass(frozen=True)
class _Field:
    """One tensor inside a packed buffer."""

    owner: nn.Module
    name: str
    is_parameter: bool
    offset: int
    dtype: torch.dtype
    shape: torch.Size

    @property
    def layout(self) -> tuple[int, torch.dtype, torch.Size]:
        return self.offset, self.dtype, self.shape

    def put(self, tensor: Tensor) -> None:
        """Make ``tensor`` what the module computes with."""
        if self.is_parameter:
            # A plain assignment would insist on nn.Parameter; a module computes with any tensor.
            self.owner._parameters[self.name] = tensor  # type: ignore[assignment]
        else:
            self.owner._buffers[self.name] = tensor


class PackedModule:
    """A module whose parameters and buffers lie one after the other in a single host buffer.

    One buffer means one copy to the device, page-locked memory in one piece, and no fragmentation. Packing
    moves the module's own tensors into the buffer, so nothing is held twice; a module that is already
    packed is taken as it is.

    Args:
        module: Its weights are on the host.
        placement: A CUDA one page-locks the buffer, which lets copies overlap compute.
        without: Parts of ``module`` to leave out, and every other name of their tensors.
    """

    def __init__(self, module: nn.Module, placement: Placement, without: Sequence[nn.Module] = ()) -> None:
        self.module = module
        self._fields, self.nbytes = _plan(module, without)
        with placement.meter.host():
            self.host = self._packed() if self._is_packed(placement.pins) else self._pack(placement.pins)
        self._host_tensors = [_current(field) for field in self._fields]

    def _packed(self) -> Tensor:
        return self.module.__dict__[_PACKED]

    def _is_packed(self, pin: bool) -> bool:
        packed = self.module.__dict__.get(_PACKED)
        if packed is None or packed.nbytes != self.nbytes or (pin and not packed.is_pinned()):
            return False
        storage = packed.untyped_storage()._cdata
        return all(_current(field).untyped_storage()._cdata == storage for field in self._fields)

    def _pack(self, pin: bool) -> Tensor:
        packed = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=pin)
        for field, view in zip(self._fields, self.views(packed), strict=True):
            view.copy_(_current(field))
            field.put(nn.Parameter(view, requires_grad=False) if field.is_parameter else view)
        self.module.__dict__[_PACKED] = packed
        return packed

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The module's tensors as views of ``buffer`` (uint8, at least :attr:`nbytes` long)."""
        return [
            buffer[field.offset : field.offset + field.shape.numel() * field.dtype.itemsize]
            .view(field.dtype)
            .view(field.shape)
            for field in self._fields
        ]

    @property
    def layout(self) -> tuple[tuple[int, torch.dtype, torch.Size], ...]:
        """Equal for modules whose views of one buffer are the same."""
        return tuple(field.layout for field in self._fields)

    def bind(self, tensors: Sequence[Tensor]) -> None:
        """Let the module compute with ``tensors``, as :meth:`views` gives them."""
        for field, tensor in zip(self._fields, tensors, strict=True):
            field.put(tensor)

    def unbind(self) -> None:
        """Give the module its host weights back."""
        self.bind(self._host_tensors)


@contextmanager
def on_device(module: nn.Module, placement: Placement, blocks: Sequence[nn.Module] = ()) -> Iterator[None]:
    """All weights of ``module`` on the device while the context lasts.

    Args:
        module: Its weights are on the host.
        placement: Moves them.
        blocks: Parts to pack each by itself, as :class:`BlockWeights` does, so that a model that is run both
            ways is packed once.
    """
    packed = [
        PackedModule(module, placement, without=blocks),
        *(PackedModule(block, placement) for block in blocks),
    ]
    try:
        for part in packed:
            part.bind(part.views(placement.to_device(part.host)))
        yield
    finally:
        for part in packed:
            part.unbind()


class _Slot:
    """A device buffer that streamed blocks take turns in."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        self._views: dict[object, list[Tensor]] = {}
        cuda = device.type == "cuda"
        self.filled = torch.cuda.Event() if cuda else None
        self.free = torch.cuda.Event() if cuda else None

    def views(self, block: PackedModule) -> list[Tensor]:
        found = self._views.get(block.layout)
        if found is None:
            found = self._views[block.layout] = block.views(self.buffer)
        return found


class BlockWeights:
    """Hands out a model's blocks in order, each with its weights on the device while it is used.

    Args:
        blocks: Visited in this order, again and again.
        placement: Moves the bytes.
        capacity_bytes: Blocks of the prefix that fits stay on the device.
        prefetch: Streamed blocks copied ahead of the one in use; each takes a buffer of the largest one.
        counter: Told of hits (resident), misses (copied) and bytes held.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        placement: Placement,
        capacity_bytes: int,
        prefetch: int,
        counter: CacheCounter,
    ) -> None:
        self._placement = placement
        self._counter = counter
        self._blocks = [PackedModule(block, placement) for block in blocks]
        self.resident = resident_prefix([block.nbytes for block in self._blocks], capacity_bytes)
        self._kept: list[Tensor] = []
        streamed = self._blocks[self.resident :]
        slots = min(prefetch + 1, len(streamed))
        largest = max((block.nbytes for block in streamed), default=0)
        self._slots = [_Slot(largest, placement.device) for _ in range(slots)]
        self._copying = torch.cuda.Stream(placement.device) if placement.pins else None

    def __iter__(self) -> Iterator[nn.Module]:
        """Every block once, in order; a block's weights are gone when the next one is asked for."""
        self._fetch_ahead(self.resident - 1)
        for index, block in enumerate(self._blocks):
            if index < self.resident:
                self._keep(index)
                yield block.module
            else:
                slot = self._arrived(index)
                block.bind(slot.views(block))
                try:
                    self._fetch_ahead(index)
                    yield block.module
                finally:
                    block.unbind()
                    if slot.free:
                        slot.free.record()

    @contextmanager
    def during_forward(self) -> Iterator[None]:
        """Let a model that calls the blocks by itself, in their order, find each one's weights on the device."""
        first, last = self._blocks[0].module, self._blocks[-1].module
        walk: Iterator[nn.Module] = iter(())

        def before(block: nn.Module, _: object) -> None:
            nonlocal walk
            if block is first:
                walk = iter(self)
            assert next(walk) is block, "the model calls its blocks in another order"

        def after(*_: object) -> None:
            for _block in walk:  # the last one's weights may go
                pass

        hooks = [block.module.register_forward_pre_hook(before) for block in self._blocks]
        hooks.append(last.register_forward_hook(after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def close(self) -> None:
        """Give every block its host weights back and free the device."""
        self._placement.meter.synchronize()
        for block in self._blocks:
            block.unbind()
        self._counter.hold(-self._counter.held_bytes)
        self._kept.clear()
        self._slots.clear()

    def _keep(self, index: int) -> None:
        if index < len(self._kept):
            self._counter.hits += 1
            return
        block = self._blocks[index]
        self._kept.append(self._placement.to_device(block.host))
        block.bind(block.views(self._kept[-1]))
        self._counter.misses += 1
        self._counter.hold(block.nbytes)

    def _slot_of(self, index: int) -> _Slot:
        return self._slots[(index - self.resident) % len(self._slots)]

    def _arrived(self, index: int) -> _Slot:
        slot = self._slot_of(index)
        if slot.holds != index:
            self._fetch(index)
        if slot.filled:
            torch.cuda.current_stream().wait_event(slot.filled)
        return slot

    def _fetch_ahead(self, index: int) -> None:
        for ahead in range(index + 1, min(index + len(self._slots), len(self._blocks))):
            if self._slot_of(ahead).holds != ahead:
                self._fetch(ahead)

    def _fetch(self, index: int) -> None:
        block, slot = self._blocks[index], self._slot_of(index)
        target = slot.buffer[: block.nbytes]
        if self._copying is not None and slot.filled and slot.free:
            if slot.holds is not None:
                self._copying.wait_event(slot.free)
            with torch.cuda.stream(self._copying):
                target.copy_(block.host, non_blocking=True)
                slot.filled.record()
        else:
            target.copy_(block.host)
        if slot.holds is not None:
            self._counter.evictions += 1
        slot.holds = index
        self._counter.misses += 1
        self._placement.meter.transferred("h2d", block.nbytes)


def resident_prefix(sizes: Sequence[int], capacity: int) -> int:
    """How many of the first blocks fit ``capacity`` bytes together."""
    held = 0
    for count, size in enumerate(sizes):
        held += size
        if held > capacity:
            return count
    return len(sizes)


def _plan(module: nn.Module, without: Sequence[nn.Module]) -> tuple[list[_Field], int]:
    fields, end = [], 0
    placed: dict[int, int] = {}
    parts = [part for left_out in without for part in left_out.modules()]
    left_out = {id(tensor) for part in parts for tensor in (*part._parameters.values(), *part._buffers.values())}
    for owner in module.modules():
        for is_parameter, tensors in ((True, owner._parameters), (False, owner._buffers)):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in left_out:
                    continue
                if id(tensor) not in placed:
                    placed[id(tensor)] = end
                    end += -(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
                fields.append(_Field(owner, name, is_parameter, placed[id(tensor)], tensor.dtype, tensor.shape))
    return fields, end


def _current(field: _Field) -> Tensor:
    tensor = (field.owner._parameters if field.is_parameter else field.owner._buffers)[field.name]
    assert tensor is not None
    return tensor
