"""One frame at a time: what a convolution over time looks at, and what is remembered for its next window."""

from __future__ import annotations

from torch import Tensor

from tuner.engine.placement import Placement


class Frame:
    """A frame of a stream, on the device, or on the host until it is looked at.

    Args:
        tensor: On the device, ``[1, C, H, W]`` or ``[1, C, 1, H, W]``; may be a view of a larger block.
        placement: Moves it.

    Attributes:
        shape: Of the tensor.
        nbytes: Of the tensor.
    """

    def __init__(self, tensor: Tensor, placement: Placement) -> None:
        self._placement = placement
        self._on_device: Tensor | None = tensor
        self._on_host: Tensor | None = None
        self.shape, self.nbytes = tensor.shape, tensor.nbytes

    @property
    def is_on_device(self) -> bool:
        """Whether looking at it costs no transfer."""
        return self._on_device is not None

    @property
    def whole(self) -> Tensor:
        """The frame on the device: itself, or a fresh copy of what lies on the host."""
        return self.rows(0, self.shape[-2])

    def rows(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom`` on the device; only they are copied if the frame is on the host."""
        if self._on_device is not None:
            return self._on_device[..., top:bottom, :]
        assert self._on_host is not None
        return self._placement.fetch(self._on_host[:, top:bottom]).movedim(1, -2)

    def keep_alone(self) -> None:
        """Keep nothing alive but this frame."""
        if self._on_device is not None and self._on_device.untyped_storage().nbytes() > self.nbytes:
            self._on_device = self._on_device.clone()

    def spill(self) -> None:
        """Leave the device, for the host."""
        if self._on_device is None:
            return
        rows_first = self._on_device.movedim(-2, 1)
        if rows_first.stride(1) != self._on_device[..., :1, :].numel():
            rows_first = rows_first.contiguous()  # so that a band of rows is one piece to copy
        self._on_host, self._on_device = self._placement.spill(rows_first), None
