"""What this machine can do at best: arithmetic in large pieces and large copies, each timed alone.

A benchmark divides what it achieved by these, so that a figure says how much is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict

import torch
from torch.nn import functional

_REPEATS = 5
_IMAGES, _CHANNELS, _IMAGE_SIDE = 8, {"cuda": 512, "cpu": 64}, 128
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 2048}
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}
_DRAWN_BYTES = 2**20


class Rates(TypedDict):
    """Attainable rates: of a matrix product or a convolution, whichever is faster here, and of copies.

    Bytes are counted once on a way to or from the host, twice (read, written) on the device.

    On a CPU host and device are the same memory: all copies there are alike.
    """

    flops_per_second: float
    device_bytes_per_second: float
    h2d_pinned_bytes_per_second: float
    h2d_pageable_bytes_per_second: float
    d2h_pinned_bytes_per_second: float


def attainable_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure them: arithmetic of ``dtype``, and copies of 1 GiB (on a CPU: 256 MiB)."""
    flops = max(_product_rate(device, dtype), _convolution_rate(device, dtype))
    size = _COPY_BYTES[device.type]
    source = _bytes(size).to(device)
    target = torch.empty_like(source)
    on_device = 2 * size / _seconds(lambda: target.copy_(source), device)
    pageable = _bytes(size)
    up_pageable = size / _seconds(lambda: target.copy_(pageable), device)
    pinned = pageable.pin_memory() if device.type == "cuda" else pageable
    up = size / _seconds(lambda: target.copy_(pinned, non_blocking=True), device)
    down = size / _seconds(lambda: pinned.copy_(source, non_blocking=True), device)
    return {
        "flops_per_second": flops,
        "device_bytes_per_second": on_device,
        "h2d_pinned_bytes_per_second": up,
        "h2d_pageable_bytes_per_second": up_pageable,
        "d2h_pinned_bytes_per_second": down,
    }


def _bytes(count: int) -> torch.Tensor:
    """On the host: the same random MiB again and again, as drawing each byte would take longer than the copies."""
    return torch.randint(256, (_DRAWN_BYTES,), dtype=torch.uint8).repeat(count // _DRAWN_BYTES)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    side = _PRODUCT_SIDE[device.type]
    one, other, product = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    return 2 * side**3 / _seconds(lambda: torch.mm(one, other, out=product), device)


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    channels = _CHANNELS[device.type]
    images = torch.randn(_IMAGES, channels, _IMAGE_SIDE, _IMAGE_SIDE, device=device, dtype=dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    one, other = (each.contiguous(memory_format=torch.channels_last) for each in (images, kernel))
    flops = 2 * _IMAGES * _IMAGE_SIDE**2 * channels**2 * 9
    return flops / _seconds(lambda: functional.conv2d(one, other, padding=1), device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few repetitions, after one that is not counted: others on the machine only slow it down."""
    took = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        took.append(time.perf_counter() - began)
    return min(took[1:])
