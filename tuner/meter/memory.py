"""Device memory, read where the device keeps the account.

CUDA keeps its own: the caching allocator's figures. A CPU keeps none, so :class:`CpuMemory` watches every
operation and adds up the storages of the tensors that are alive: exact bytes of tensors, not the process's
resident set. Copies that stand for host memory are made inside :meth:`CpuMemory.host` and stay uncounted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DeviceMemory(Protocol):
    """What the meter asks of a device."""

    def watching(self) -> AbstractContextManager[object]:
        """Context in which device memory is counted."""
        ...

    def host(self) -> AbstractContextManager[object]:
        """Context in which new tensors stand for host memory."""
        ...

    def now(self) -> tuple[int, int]:
        """Allocated and reserved bytes at this moment (on the CPU the highest since the last call)."""
        ...

    def start_peak(self) -> None:
        """Give back what is held and not in use, and begin a new peak at the bytes held now."""
        ...

    def peak(self) -> tuple[int, int]:
        """Highest allocated and reserved bytes since :meth:`start_peak`."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        ...


class CudaMemory:
    """The CUDA caching allocator's own figures."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def watching(self) -> AbstractContextManager[object]:
        return nullcontext()

    def host(self) -> AbstractContextManager[object]:
        return nullcontext()

    def now(self) -> tuple[int, int]:
        return torch.cuda.memory_allocated(self._device), torch.cuda.memory_reserved(self._device)

    def start_peak(self) -> None:
        # What one stage leaves behind is of other sizes than what the next one needs.
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> tuple[int, int]:
        return torch.cuda.max_memory_allocated(self._device), torch.cuda.max_memory_reserved(self._device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)


class CpuMemory(TorchDispatchMode):
    """Exact bytes of the storages that this thread's operations made and that are still alive.

    Reserved equals allocated: the CPU allocator keeps nothing back that could be counted per tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocated = 0
        self._peak = 0
        self._high = 0
        self._in_host = False
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._makes_nothing: dict[Any, bool] = {}

    def watching(self) -> AbstractContextManager[object]:
        return self

    @contextmanager
    def host(self) -> Iterator[None]:
        before, self._in_host = self._in_host, True
        try:
            yield
        finally:
            self._in_host = before

    def now(self) -> tuple[int, int]:
        high, self._high = max(self._high, self.allocated), self.allocated
        return high, high

    def start_peak(self) -> None:
        self._peak = self.allocated

    def peak(self) -> tuple[int, int]:
        return self._peak, self._peak

    def synchronize(self) -> None:
        pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._in_host:
            return out
        makes_nothing = self._makes_nothing.get(func)
        if makes_nothing is None:
            makes_nothing = any(result.alias_info is not None for result in func._schema.returns)
            self._makes_nothing[func] = makes_nothing
        if not makes_nothing:
            self._count(out)
        return out

    def _count(self, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            storage = out.untyped_storage()
            key = storage._cdata
            if key in self._alive:
                return
            size = storage.nbytes()
            self._alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._freed(key, size))
            self.allocated += size
            self._peak = max(self._peak, self.allocated)
            self._high = max(self._high, self.allocated)
        elif isinstance(out, tuple | list):
            for item in out:
                self._count(item)

    def _freed(self, key: int, size: int) -> None:
        del self._alive[key]
        self.allocated -= size


class NoMemory:
    """A device that keeps no account: fake tensors, whose bytes the caller counts."""

    def watching(self) -> AbstractContextManager[object]:
        return nullcontext()

    def host(self) -> AbstractContextManager[object]:
        return nullcontext()

    def now(self) -> tuple[int, int]:
        return 0, 0

    def start_peak(self) -> None:
        pass

    def peak(self) -> tuple[int, int]:
        return 0, 0

    def synchronize(self) -> None:
        pass


def memory_of(device: torch.device) -> DeviceMemory:
    """The account of ``device``."""
    if device.type == "cuda":
        return CudaMemory(device)
    return CpuMemory() if device.type == "cpu" else NoMemory()
