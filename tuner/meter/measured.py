"""The shape of what one run measured: the ``measured`` object of ``tuner run --json``."""

from __future__ import annotations

from typing import TypedDict


class StageMeasured(TypedDict):
    """One stage: its wall seconds and the highest bytes in live device tensors during it."""

    name: str
    seconds: float
    peak_allocated_bytes: int


class TransfersMeasured(TypedDict):
    """Copies between host and device."""

    h2d_count: int
    h2d_bytes: int
    d2h_count: int
    d2h_bytes: int


class CacheMeasured(TypedDict):
    """One cache level over the run."""

    hits: int
    misses: int
    evictions: int
    peak_bytes: int


class Measured(TypedDict):
    """Everything one run measured.

    ``fragmentation`` is (reserved - allocated) / reserved at the peak; the CPU has no caching allocator, so
    there reserved equals allocated.
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    fragmentation: float
    seconds: float
    step_seconds: list[float]
    stages: list[StageMeasured]
    transfers: TransfersMeasured
    cache: dict[str, CacheMeasured]
