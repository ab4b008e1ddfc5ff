"""Small clips for tests to give."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def a_clip(path: Path, frames: int = 9, fps: int = 8, size: int = 64) -> str:
    """Write a clip in which a white square moves to the right; its path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            pixels = np.full((size, size, 3), 30, np.uint8)
            left = number * size // (2 * frames)
            pixels[size // 4 : size // 2, left : left + size // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)
