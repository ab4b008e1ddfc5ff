"""What a request brings along, pictures and a source clip: checked early, copied into its run's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuner.errors import BadInput
from tuner.request import FILES, PICTURES, Request, open_clip, open_picture
from tuner.runs.store import writing


def clip_seconds(path: str | Path) -> float:
    """When the last frame of a clip is shown, read without decoding it.

    Raises:
        BadInput: The file is missing, or is no clip.
    """
    with open_clip(path) as container:
        packets = container.demux(container.streams.video[0])
        times = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
    if not times:
        raise BadInput("source_video", Path(path).name, "a clip with frames in it")
    return max(times)


def check_given(request: Request) -> None:
    """Refuse pictures and clips that cannot be used.

    Raises:
        BadInput: One is missing, damaged, too large, or a clip is too short for the request.
    """
    for name in PICTURES:
        if (picture := getattr(request, name)) is not None:
            open_picture(name, picture)
    _check_clip(request)


def _check_clip(request: Request) -> None:
    if (clip := request.source_video) is None:
        return
    if not isinstance(clip, str | Path):
        raise BadInput("source_video", "an array", "the path of a video file")
    found = int(clip_seconds(clip) * request.fps + 1e-6) + 1
    if found < request.frames:
        allowed = f"a clip of at least {request.frames} frames at {request.fps} frames per second"
        raise BadInput("source_video", f"{found} frames", allowed)


def keep_given(request: Request, folder: Path) -> Request:
    """Copy everything given into a run's folder, so that its history survives the originals.

    Returns:
        The request with the paths of the copies.

    Raises:
        BadInput: As :func:`check_given`.
        TunerError: The folder cannot be written.
    """
    _check_clip(request)
    copies: dict[str, str] = {}
    for name in FILES:
        given = getattr(request, name)
        if given is None:
            continue
        if name in PICTURES:
            copy = folder / f"{name}.png"
            with writing(copy):
                open_picture(name, given).save(copy, compress_level=1)
        else:
            copy = folder / f"{name}{Path(given).suffix.lower()}"
            with writing(copy):
                shutil.copyfile(given, copy)
        copies[name] = str(copy)
    return request.replace(**copies)
