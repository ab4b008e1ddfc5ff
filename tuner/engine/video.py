"""Frames out: 8-bit pictures made on worker threads and written into an mp4 while the device goes on."""

from __future__ import annotations

import queue
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import Colorspace
from torch import Tensor

from tuner.errors import TunerError

_WAITING_FRAMES = 64
_LOOK_AGAIN_SECONDS = 0.1
_CRF = 18
_BT709 = 1


class VideoWriter:
    """Writes an H.264 mp4 from float frames, on threads of its own.

    Used as a context: :meth:`finish` completes the file, leaving the context without it removes the file.

    Args:
        path: Where the mp4 goes; it appears there only when it is complete.
        width: Pixels, even.
        height: Pixels, even.
        fps: Frames per second.
        comment: Text kept in the file's ``comment`` metadata.
        workers: Threads that turn frames into 8-bit pictures.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int, comment: str, workers: int) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.part")
        self._size, self._fps, self._comment = (width, height), fps, comment
        self._converters = ThreadPoolExecutor(workers, thread_name_prefix="frames")
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="video")
        self._frames: queue.Queue[Future[np.ndarray] | None] = queue.Queue(_WAITING_FRAMES)

    def __enter__(self) -> Self:
        self._written = self._encoder.submit(self._write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put(None)
        self._encoder.shutdown()
        self._converters.shutdown()
        self._partial.unlink(missing_ok=True)

    def add(self, frames: Tensor) -> None:
        """Append ``[1, 3, n, H, W]`` frames in about -1..1, on the host.

        Raises:
            TunerError: An earlier frame could not be written.
        """
        for frame in frames[0].unbind(1):
            self._put(self._converters.submit(eight_bit, frame))
        if self._written.done():
            self._check_written()

    def finish(self) -> None:
        """Wait until everything is written and put the file in its place.

        Raises:
            TunerError: It could not be written.
        """
        self._put(None)
        self._check_written()
        self._partial.replace(self.path)

    def _put(self, frame: Future[np.ndarray] | None) -> None:
        """Queue ``frame``, unless the encoder has ended and nobody will take it."""
        while not self._written.done():
            try:
                self._frames.put(frame, timeout=_LOOK_AGAIN_SECONDS)
            except queue.Full:
                continue
            return

    def _check_written(self) -> None:
        try:
            self._written.result()
        except (OSError, FFmpegError) as error:
            reason = error.strerror or error
            raise TunerError(
                f"cannot write {self.path}: {reason}; free some space or choose another folder"
            ) from error

    def _write(self) -> None:
        with av.open(str(self._partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata["comment"] = self._comment
            stream = container.add_stream("libx264", rate=self._fps, options={"crf": str(_CRF), **_steady()})
            stream.width, stream.height = self._size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            for frame in iter(self._frames.get, None):
                picture = av.VideoFrame.from_ndarray(frame.result(), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
            container.mux(stream.encode())


def _steady() -> dict[str, str]:
    """Options with which x264 makes the same file of the same frames.

    At many widths its AVX-512 code reads memory that nothing was written to: 40 files of the same 17 frames of
    96x96 were 31 different ones. Its AVX2 code does not.
    """
    return {"x264-params": "asm=avx2"} if torch.backends.cpu.get_cpu_capability() == "AVX512" else {}


def eight_bit(frame: Tensor) -> np.ndarray:
    """A frame ``[3, H, W]`` in about -1..1 as uint8 ``[H, W, 3]``."""
    pixels = frame.float().numpy().transpose(1, 2, 0)
    return np.rint(np.clip(pixels * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def unit_range(frames: Tensor) -> Tensor:
    """``[1, 3, n, H, W]`` in about -1..1 as float32 ``[1, n, H, W, 3]`` in 0..1."""
    return frames.float().mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
