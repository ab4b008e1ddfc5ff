"""Host tensors too large to be worth making, such as a model's weights: shape, strides and dtype without bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_META = torch.device("meta")


class HostTensor(Tensor):
    """Looks like a tensor on ``cpu``; operations on it give others of the right form.

    Args:
        form: A tensor on ``meta`` of the same shape, strides and dtype; views share its storage.
    """

    form: Tensor

    @staticmethod
    def __new__(cls, form: Tensor) -> HostTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            form.shape,
            strides=form.stride(),
            storage_offset=form.storage_offset(),
            dtype=form.dtype,
            device=torch.device("cpu"),
        )
        made.form = form
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def untyped_storage(self) -> torch.UntypedStorage:
        """The storage of ``form``: equal for views of one tensor."""
        return self.form.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            if holds_weights(args[1]):
                mark_weights(args[0])
            return args[0]
        if not kwargs and isinstance(args[0], HostTensor) and not any(map(_is_nested, args[1:])):
            result = func(args[0].form, *args[1:])  # most are views
        else:
            result = func(*tree_map(_form_of, args), **tree_map(_form_of, kwargs or {}))
        if isinstance(result, Tensor):
            return cls(result)
        return tree_map(lambda value: cls(value) if isinstance(value, Tensor) else value, result)


def weight(shape: Sequence[int], dtype: torch.dtype) -> HostTensor:
    """A model's weight without bytes; it and what is made of it alone can be told from other tensors."""
    made = HostTensor(torch.empty(tuple(shape), dtype=dtype, device=_META))
    mark_weights(made)
    return made


def mark_weights(tensor: Tensor) -> None:
    """Remember that the storage of ``tensor`` holds weights."""
    tensor.untyped_storage().holds_weights = True  # type: ignore[attr-defined]


def holds_weights(tensor: Tensor) -> bool:
    """Whether the storage of ``tensor`` holds weights."""
    return getattr(tensor.untyped_storage(), "holds_weights", False)


def _is_nested(value: Any) -> bool:
    return isinstance(value, Tensor | torch.device | list | tuple)


def _form_of(value: Any) -> Any:
    if isinstance(value, HostTensor):
        return value.form
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    return _META if isinstance(value, torch.device) else value
