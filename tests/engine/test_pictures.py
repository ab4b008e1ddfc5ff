from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.engine.pictures import Given, given_frames, known_pixels, mask_latents, masked_video, source_frames
from tuner.engine.video import VideoWriter
from tuner.errors import BadInput
from tuner.request import Request

RED = np.zeros((64, 32, 3), np.uint8)
RED[..., 0] = 255


def request(**given) -> Request:
    return Request(width=48, height=32, frames=9, **given)


def frame(number: int, **given) -> np.ndarray:
    found = given_frames(request(**given), 2)
    assert found is not None
    return found.frames[number]


def test_a_picture_of_another_shape_is_cropped_around_its_centre():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60] = 255  # a white band across the middle
    fitted = frame(0, start_image=picture)
    assert fitted.shape == (32, 48, 3)
    assert fitted[16].mean() > 240
    assert fitted[0].mean() < 15


def test_a_picture_of_the_clip_s_size_is_kept_to_the_bit():
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(frame(8, end_image=picture), picture)


def test_transparency_lies_on_white_and_rotation_is_undone(tmp_path):
    clear = Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (frame(0, start_image=tmp_path / "clear.png") == 255).all()
    turned = Image.fromarray(np.concatenate([RED, 255 - RED], axis=1))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = frame(0, start_image=tmp_path / "turned.png")
    assert upright[2].mean(0).argmax() != upright[-2].mean(0).argmax()


def test_only_given_frames_are_known():
    given = Given({0: RED, 8: RED})
    video = masked_video(given, 9, 0.0, torch.Generator(), torch.float32)
    assert video.shape == (1, 3, 9, 64, 32)
    assert (video[:, 0, [0, -1]] == 1).all()
    assert (video[:, :, 1:-1] == -1).all()
    assert known_pixels(given, 9).flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_noise_is_seeded_and_spares_what_looks_unknown():
    make = lambda: masked_video(Given({0: RED}), 5, 0.1, torch.Generator().manual_seed(3), torch.float32)  # noqa: E731
    noisy = make()
    assert torch.equal(noisy, make())
    assert 0.05 < noisy[0, 0, 0].std() < 0.2
    assert (noisy[0, 1, 0] == -1).all()


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (49, 13)])
def test_the_mask_is_resized_over_time_with_the_first_frame_apart(frames, latent_frames):
    known = known_pixels(Given({0: RED}), frames)
    mask = mask_latents(known, torch.Size([1, 16, latent_frames, 4, 6]), 0.5)
    assert mask.shape == (1, 1, latent_frames, 4, 6)
    assert (mask[:, :, 0] == 0.5).all()
    assert (mask[:, :, 1:] == 0).all()


def test_white_of_the_mask_is_made_anew_and_the_rest_is_kept():
    clip = np.full((9, 32, 48, 3), 200, np.uint8)
    mask = np.zeros((32, 48, 3), np.uint8)
    mask[:, 24:] = 255
    given = given_frames(request(source_video=clip, mask=mask), 2)
    video = masked_video(given, 9, 0.0, torch.Generator(), torch.float32)
    assert (video[..., :24] > 0.5).all()
    assert (video[..., 24:] == -1).all()
    latents = mask_latents(known_pixels(given, 9), torch.Size([1, 16, 3, 4, 6]), 1.0)
    assert (latents[..., :3] == 1).all()
    assert (latents[..., 3:] == 0).all()


def test_a_source_clip_is_read_at_the_request_s_frame_rate(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 48, 32, 24, "", 1) as writer:
        shades = torch.linspace(-1, 1, 27).view(1, 1, 27, 1, 1).expand(1, 3, 27, 32, 48)
        writer.add(shades)
        writer.finish()
    frames = source_frames(request(source_video=tmp_path / "clip.mp4", strength=0.5), 2)
    means = [float(pixels.mean()) for pixels in frames]
    assert len(means) == 9
    assert np.allclose(means, np.linspace(0, 255, 27)[::3], atol=6)


@pytest.mark.parametrize("content", [None, b"", b"no clip"])
def test_a_source_clip_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"source_video: .*clip\.mp4.* allowed: an existing MP4"):
        source_frames(request(source_video=path, strength=0.5), 1)


def test_a_playlist_that_names_other_files_is_no_source_clip(tmp_path):
    with VideoWriter(tmp_path / "other.mp4", 48, 32, 8, "", 1) as writer:
        writer.add(torch.zeros(1, 3, 9, 32, 48))
        writer.finish()
    playlist = tmp_path / "clip.mp4"
    playlist.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(BadInput, match=r"source_video: .*clip\.mp4"):
        source_frames(request(source_video=playlist, strength=0.5), 1)


def test_a_source_clip_too_short_is_refused():
    with pytest.raises(BadInput, match=r"source_video: '4 frames'.*at least 9 frames at 8 frames per second"):
        source_frames(request(source_video=np.zeros((4, 32, 48, 3), np.uint8), strength=0.5), 1)
