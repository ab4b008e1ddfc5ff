"""Modules whose weights lie in one buffer each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tuner.engine.placement import Placement

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
