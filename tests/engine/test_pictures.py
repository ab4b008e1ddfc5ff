from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.engine.pictures import fitted_pictures, known_frames, mask_latents, masked_video
from tuner.request import Request

RED = np.zeros((64, 32, 3), np.uint8)
RED[..., 0] = 255


def request(**pictures) -> Request:
    return Request(width=48, height=32, frames=9, **pictures)


def test_a_picture_of_another_shape_is_cropped_around_its_centre():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60] = 255  # a white band across the middle
    fitted = fitted_pictures(request(start_image=picture), 1)["start_image"]
    assert fitted.shape == (32, 48, 3)
    assert fitted[16].mean() > 240
    assert fitted[0].mean() < 15


def test_a_picture_of_the_clip_s_size_is_kept_to_the_bit():
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(fitted_pictures(request(end_image=picture), 2)["end_image"], picture)


def test_transparency_lies_on_white_and_rotation_is_undone(tmp_path):
    clear = Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (fitted_pictures(request(start_image=tmp_path / "clear.png"), 1)["start_image"] == 255).all()
    turned = Image.fromarray(np.concatenate([RED, 255 - RED], axis=1))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = fitted_pictures(request(start_image=tmp_path / "turned.png"), 1)["start_image"]
    assert upright[2].mean(0).argmax() != upright[-2].mean(0).argmax()


def test_only_given_frames_are_known():
    pictures = {"start_image": RED, "end_image": RED}
    video = masked_video(pictures, 9, 0.0, torch.Generator(), torch.float32)
    assert video.shape == (1, 3, 9, 64, 32)
    assert (video[:, 0, [0, -1]] == 1).all()
    assert (video[:, :, 1:-1] == -1).all()
    assert known_frames(pictures, 9).flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_noise_is_seeded_and_spares_what_looks_unknown():
    make = lambda: masked_video({"start_image": RED}, 5, 0.1, torch.Generator().manual_seed(3), torch.float32)  # noqa: E731
    noisy = make()
    assert torch.equal(noisy, make())
    assert 0.05 < noisy[0, 0, 0].std() < 0.2
    assert (noisy[0, 1, 0] == -1).all()


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (49, 13)])
def test_the_mask_is_resized_over_time_with_the_first_frame_apart(frames, latent_frames):
    known = known_frames({"start_image": RED}, frames)
    mask = mask_latents(known, torch.Size([1, 16, latent_frames, 4, 6]), 0.5)
    assert mask.shape == (1, 1, latent_frames, 4, 6)
    assert (mask[:, :, 0] == 0.5).all()
    assert (mask[:, :, 1:] == 0).all()
