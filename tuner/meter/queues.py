"""A device's queues: one computes, and one copies from the host beside it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Queues(Protocol):
    """Two queues that wait for each other only where they are told to; the host waits for neither."""

    def event(self) -> Any:
        """A place in a queue that nobody has come to yet."""
        ...

    def reached(self, event: Any) -> None:
        """``event`` is where computing has come to."""
        ...

    def wait(self, event: Any) -> None:
        """Computing goes on once ``event`` has come."""
        ...

    def copy(self, target: Tensor, source: Tensor, after: Any, done: Any) -> None:
        """Copy from the host beside computing.

        Args:
            target: On the device.
            source: Pinned, on the host.
            after: An event of computing to wait for first.
            done: The event that comes when the bytes are there.
        """
        ...


class CudaQueues:
    """The stream that is current, and one of its own for copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def reached(self, event: torch.cuda.Event) -> None:
        event.record(torch.cuda.current_stream(self._device))

    def wait(self, event: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(event)

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event, done: torch.cuda.Event) -> None:
        # Memory freed while it is copied to is not given to anybody else before the copy is over.
        target.record_stream(self._copying)
        self._copying.wait_event(after)
        with torch.cuda.stream(self._copying):
            target.copy_(source, non_blocking=True)
            done.record(self._copying)
