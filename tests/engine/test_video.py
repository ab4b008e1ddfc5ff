from __future__ import annotations

import ctypes

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace

from tuner.demo.render import render
from tuner.demo.scene import random_scene
from tuner.engine.video import VideoWriter, eight_bit, unit_range
from tuner.errors import TunerError

_M_PERTURB = -6
COLOURS = {"red": (0.8, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.8), "grey": (0.5, 0.5, 0.5)}


def solid(colour: tuple[float, float, float], frames: int = 3) -> torch.Tensor:
    return (torch.tensor(colour) * 2 - 1).view(1, 3, 1, 1, 1).expand(1, 3, frames, 32, 48)


def written(path, chunks) -> None:
    with VideoWriter(path, 48, 32, 8, "said", 2) as writer:
        for chunk in chunks:
            writer.add(chunk)
        writer.finish()


@pytest.mark.parametrize("name", COLOURS)
def test_colours_survive_the_mp4(tmp_path, name):
    written(tmp_path / "a.mp4", [solid(COLOURS[name])])
    with av.open(str(tmp_path / "a.mp4")) as clip:
        frame = next(clip.decode(video=0))
        assert frame.colorspace == Colorspace.ITU709
        rgb = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709).to_ndarray()
    assert np.abs(rgb / 255 - COLOURS[name]).max() < 0.02


def test_chunks_are_written_in_order_and_the_comment_kept(tmp_path):
    shades = [step / 12 for step in range(13)]
    written(tmp_path / "a.mp4", [solid((shade,) * 3, 1) for shade in shades])
    with av.open(str(tmp_path / "a.mp4")) as clip:
        means = [frame.to_ndarray(format="gray").mean() for frame in clip.decode(video=0)]
        assert clip.metadata["comment"] == "said"
    assert len(means) == 13
    assert means == sorted(means)


def test_a_clip_that_is_not_finished_leaves_nothing(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 48, 32, 8, "", 1) as writer:
        writer.add(solid((0, 0, 0)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="what fresh memory holds is set in glibc")
def test_the_same_frames_make_the_same_file_whatever_fresh_memory_holds(tmp_path):
    generator = torch.Generator().manual_seed(0)
    clip = render(random_scene(0), 17, 96) * 2 - 1
    frames = (clip + 0.02 * torch.randn(clip.shape, generator=generator)).transpose(0, 1)[None]
    files, libc = set(), ctypes.CDLL(None)
    try:
        for byte in (0, 1, 60, 127, 200, 254):
            libc.mallopt(_M_PERTURB, byte)
            with VideoWriter(tmp_path / "a.mp4", 96, 96, 8, "", 1) as writer:
                writer.add(frames)
                writer.finish()
            files.add((tmp_path / "a.mp4").read_bytes())
    finally:
        libc.mallopt(_M_PERTURB, 0)
    assert len(files) == 1


@pytest.mark.parametrize("frames", [1, 200])
def test_a_full_disk_is_one_clear_error(tmp_path, frames):
    # Every write to /dev/full fails as on a full disk: at once for a long clip, at the last flush for a short one.
    (tmp_path / ".a.mp4.part").symlink_to("/dev/full")
    with pytest.raises(TunerError, match=r"cannot write .*a\.mp4: No space left on device"):
        written(tmp_path / "a.mp4", [torch.rand(1, 3, frames, 32, 48) * 2 - 1])
    assert list(tmp_path.iterdir()) == []


def test_eight_bit_rounds_to_nearest_and_clips():
    frame = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, 1 / 127.5]).expand(3, 1, 6)
    assert eight_bit(frame)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 128]
    assert unit_range(frame[None, :, None])[0, 0, 0, :, 0].tolist()[:5] == [0.0, 0.0, 0.5, 1.0, 1.0]
