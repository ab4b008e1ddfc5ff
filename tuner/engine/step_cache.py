"""Leaves most of a step out where it would do nearly what an earlier one did.

What the blocks behind the first add to the video's tokens changes slowly from step to step, and the first block
shows by how much: as long as what it adds is near what it added at the last whole step, the others are not run and
what they added then is added again. (First block cache: ParaAttention, 2024; the idea is that of TeaCache, Liu and
others, 2024.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tuner.engine.placement import Placement
from tuner.meter.meter import CacheCounter

_LOOKED_AT = 1024


class StepCache:
    """Remembers what the blocks behind the first added to each group of samples.

    Args:
        threshold: Largest change of what the first block adds, relative, of any sample: mean absolute difference
            over mean absolute value. At 0 every step is whole.
        stays: Whether what is remembered stays on the device; else it goes to the host and comes back.
        placement: Moves it.
        counter: Told of steps left out (hits), of whole ones (misses) and of the bytes that stay.
    """

    def __init__(self, threshold: float, stays: bool, placement: Placement, counter: CacheCounter) -> None:
        self._threshold, self._stays = threshold, stays
        self._placement, self._counter = placement, counter
        self._before: list[Tensor] = []
        self._added_first: list[Tensor] = []
        self._after_first: list[Tensor] = []
        self._added: list[Tensor] = []

    def begin(self, videos: Sequence[Tensor]) -> None:
        """A step begins.

        Args:
            videos: Tokens ``[b, n, C]`` of each group, which the first block is about to change in place.
        """
        if [video.shape for video in videos] != [added.shape for added in self._added]:
            self.forget()
        self._before = [_some(video).clone() for video in videos]

    def leave_out(self, videos: Sequence[Tensor]) -> bool:
        """After the first block: whether the others can be left out; then ``videos`` are as if they had run."""
        added = [_some(video).sub(before).float() for video, before in zip(videos, self._before, strict=True)]
        if self._is_near(added):
            self._counter.hits += 1
            for video, more in zip(videos, self._added, strict=True):
                video.add_(self._fetched(more))
            return True
        self._counter.misses += 1
        self.forget()
        self._added_first = added
        self._after_first = [self._kept(video.clone() if self._stays else video) for video in videos]
        return False

    def remember(self, videos: Sequence[Tensor]) -> None:
        """After the last block of a whole step: what the blocks behind the first have added to ``videos``."""
        while self._after_first:
            more = self._fetched(self._after_first.pop(0))
            torch.sub(videos[len(self._added)], more, out=more)
            self._added.append(self._kept(more))
        if self._stays:
            self._counter.hold(sum(added.nbytes for added in self._added))

    def forget(self) -> None:
        """The next step is whole."""
        if self._stays:
            self._counter.hold(-sum(added.nbytes for added in self._added))
        self._added, self._after_first = [], []

    def _is_near(self, added: Sequence[Tensor]) -> bool:
        # A forecast's tensors have no values: there every step is whole.
        if not self._added or added[0].device.type == "meta":
            return False
        changes = [
            (now - then).abs().mean((1, 2)) / then.abs().mean((1, 2))
            for now, then in zip(added, self._added_first, strict=True)
        ]
        return float(torch.cat(changes).max()) < self._threshold

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor if self._stays else self._placement.spill(tensor)

    def _fetched(self, tensor: Tensor) -> Tensor:
        return tensor if self._stays else self._placement.fetch(tensor)


def _some(video: Tensor) -> Tensor:
    """Tokens spread evenly over the clip: enough to see a change by."""
    return video[:, :: max(1, video.shape[1] // _LOOKED_AT)]
