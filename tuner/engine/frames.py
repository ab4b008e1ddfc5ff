"""One frame at a time: what a convolution over time looks at, and what is remembered for its next window."""

from __future__ import annotations

import torch
from torch import Tensor

from tuner.engine.placement import Placement


class Frame:
    """A frame of a stream, on the device, or on the host until it is looked at.

    Args:
        tensor: On the device, ``[1, C, H, W]`` or ``[1, C, 1, H, W]``; may be a view of a larger block.
        placement: Moves it.
    """

    def __init__(self, tensor: Tensor, placement: Placement) -> None:
        self._placement = placement
        self._on_device: Tensor | None = tensor
        self._on_host: Tensor | None = None

    @property
    def is_on_device(self) -> bool:
        """Whether looking at it costs no transfer."""
        return self._on_device is not None

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self._kept.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self._kept.nbytes

    @property
    def whole(self) -> Tensor:
        """The frame on the device: itself, or a fresh copy of what lies on the host."""
        return self._kept if self.is_on_device else self._placement.fetch(self._kept)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom`` of :attr:`whole`; only they are copied."""
        rows = self._kept[..., top:bottom, :]
        return rows if self.is_on_device else self._placement.fetch(rows)

    def keep_alone(self) -> None:
        """Keep nothing alive but this frame."""
        if self._on_device is not None and self._on_device.untyped_storage().nbytes() > self._on_device.nbytes:
            self._on_device = self._on_device.clone()

    def spill(self) -> None:
        """Leave the device; a frame that has been on the host before needs no copy."""
        if self._on_device is not None:
            self._on_host = self._placement.spill(self._on_device)
            self._on_device = None

    @property
    def _kept(self) -> Tensor:
        kept = self._on_device if self._on_device is not None else self._on_host
        assert kept is not None
        return kept
