"""A card made of nothing: fake tensors on the device ``meta``, their bytes counted apart from the meter."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = torch.device("meta")


class FakeCard(TorchDispatchMode):
    """Counts the bytes of the live storages that operations make on the card, and what is copied to it.

    Args:
        inputs: Tensors whose bytes are somebody else's.
    """

    def __init__(self, inputs: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.copied_bytes = 0
        self._known = {tensor.untyped_storage()._cdata: weakref.ref(tensor.untyped_storage()) for tensor in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.device == CARD]
        if made:
            self.copied_bytes += sum(tensor.nbytes for tensor in given if tensor.device != CARD and tensor.ndim)
        for tensor in made:
            self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, bytes_ = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.live += bytes_
        self.peak = max(self.peak, self.live)

        def gone(_: object) -> None:
            self.live -= bytes_
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)


class _FusedAttention(TorchFunctionMode):
    """On ``meta`` attention is decomposed into the whole score matrix; a card's fused kernel makes none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else kwargs["query"])
        return func(*args, **(kwargs or {}))


@contextmanager
def fake_card(inputs: Iterable[Tensor] = ()) -> Iterator[FakeCard]:
    """Inside a ``FakeTensorMode``: what operations put on the card, attention counted as its fused kernel."""
    with FakeCard(inputs) as card, _FusedAttention():
        yield card
