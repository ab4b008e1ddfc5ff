"""Where tensors lie: every copy between host and device goes through here and is counted."""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.meter.meter import Meter


class Placement:
    """Moves tensors between host and device.

    On a machine without a GPU both are the CPU; the copies are real all the same, so that a setting costs
    there what it costs on a card.

    Args:
        device: Where compute runs: CUDA, the CPU, or ``meta`` for fake tensors.
        meter: Counts the copies; by default one of its own.
    """

    def __init__(self, device: torch.device | str | None = None, meter: Meter | None = None) -> None:
        self.device = torch.device(device) if device is not None else default_device()
        self.meter = meter or Meter(self.device)
        self.pins = self.device.type == "cuda"

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy of the host's ``tensor`` on the device, contiguous."""
        self.meter.transferred("h2d", tensor.nbytes)
        if self.device.type == "cpu":
            return tensor.clone(memory_format=torch.contiguous_format)
        return tensor.to(self.device, non_blocking=tensor.is_pinned() if self.pins else False).contiguous()

    def to_host(self, tensor: Tensor) -> Tensor:
        """A copy of the device's ``tensor`` on the host, complete when this returns."""
        self.meter.transferred("d2h", tensor.nbytes)
        with self.meter.host():
            if self.device.type == "cpu":
                return tensor.clone(memory_format=torch.contiguous_format)
            return tensor.to("cpu").contiguous()

    def spill(self, tensor: Tensor) -> Tensor:
        """A copy on the host of bytes that come back: pinned, ordered on the device's stream, strides kept."""
        self.meter.transferred("d2h", tensor.nbytes)
        with self.meter.host():
            host = torch.empty_like(tensor, device="cpu", pin_memory=self.pins)
            return host.copy_(tensor, non_blocking=self.pins)

    def fetch(self, tensor: Tensor) -> Tensor:
        """What :meth:`spill` gave, or some rows of it, on the device again, strides kept."""
        self.meter.transferred("h2d", tensor.nbytes)
        return torch.empty_like(tensor, device=self.device).copy_(tensor, non_blocking=self.pins)

    def on_device(self, tensor: Tensor) -> Tensor:
        """``tensor`` itself when it already is on a device of its own, else a copy there."""
        if self.device.type != "cpu" and tensor.device.type == self.device.type:
            return tensor
        return self.to_device(tensor)


def default_device() -> torch.device:
    """The first CUDA card, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
