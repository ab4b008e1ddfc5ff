from __future__ import annotations

import itertools

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tuner.engine.repeats import repeats_of
from tuner.engine.vae import VaeRunner
from tuner.settings import GIB, Settings

LAYOUTS = ("contiguous", "chunked", "interleaved")
CHUNKS = (0, 1, 2, 4, 8, 16)


def video(frames: int, height: int = 16, width: int = 32, batch: int = 1) -> Tensor:
    make = torch.Generator().manual_seed(frames + height + width)
    return torch.rand(batch, 3, frames, height, width, generator=make) * 2 - 1


@torch.no_grad()
def stock_latents(vae: AutoencoderKLMagvit, frames: Tensor) -> Tensor:
    return vae.encode(frames).latent_dist.mode()


@torch.no_grad()
def stock_video(vae: AutoencoderKLMagvit, latents: Tensor) -> Tensor:
    return vae.decode(latents).sample


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def decoded(runner: VaeRunner, latents: Tensor) -> Tensor:
    return torch.cat([chunk.clone() for chunk in runner.decode(latents)], dim=2)


@pytest.mark.parametrize(("layout", "chunk"), list(itertools.product(LAYOUTS, CHUNKS)))
def test_every_layout_and_chunk_size_equals_stock(vae, layout, chunk):
    clip = video(13)
    latents = stock_latents(vae, clip)
    runner = VaeRunner(vae, Settings(layout=layout, chunk_size=chunk), "cpu")
    assert relative_error(runner.encode(clip), latents) < 1e-5
    assert relative_error(decoded(runner, latents), stock_video(vae, latents)) < 1e-5


def test_contiguous_decodes_to_the_bit(vae):
    latents = stock_latents(vae, video(13))
    runner = VaeRunner(vae, Settings(layout="contiguous", chunk_size=4), "cpu")
    assert torch.equal(decoded(runner, latents), stock_video(vae, latents))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("capacity", [0.0, 1.0])
@pytest.mark.parametrize("working_bytes", [1, 3_000, 20_000])
def test_bands_of_rows_and_groups_of_channels_change_nothing(vae, monkeypatch, layout, capacity, working_bytes):
    latents = stock_latents(vae, video(9))
    expected = stock_video(vae, latents)
    monkeypatch.setattr("tuner.engine.layout.WORKING_BYTES", working_bytes)
    runner = VaeRunner(vae, Settings(layout=layout, chunk_size=4, cache_capacity=capacity), "cpu")
    assert relative_error(decoded(runner, latents), expected) < 1e-5


def picture_and_nothing_more(frames: int, end: bool) -> Tensor:
    clip = torch.full((1, 3, frames, 16, 32), -1.0)
    clip[:, :, 0] = video(1)[:, :, 0]
    if end:
        clip[:, :, -1] = video(5)[:, :, -1]
    return clip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    ("clip", "repeats"),
    [
        (video(13), ()),
        (picture_and_nothing_more(49, False), repeats_of(49, {0})),
        (picture_and_nothing_more(49, True), repeats_of(49, {0, 48})),
    ],
    ids=["film", "start", "start and end"],
)
def test_a_clip_is_encoded_to_the_bit_whatever_the_knobs(vae, layout, chunk, clip, repeats):
    runner = VaeRunner(vae, Settings(layout=layout, chunk_size=chunk), "cpu")
    assert torch.equal(runner.encode(clip, repeats), stock_latents(vae, clip))


def test_frames_that_only_repeat_are_not_encoded_again(vae):
    def convolutions(repeats: list[bool]) -> int:
        clip = picture_and_nothing_more(49, False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            VaeRunner(vae, Settings(chunk_size=4), "cpu").encode(clip, repeats)
        return sum(event.count for event in profile.key_averages() if event.key == "aten::conv3d")

    assert convolutions(repeats_of(49, {0})) < convolutions([]) / 2


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    chunk=st.sampled_from(CHUNKS),
    capacity=st.sampled_from([0.0, 0.00001, 0.0001, 1.0]),
    groups=st.integers(0, 4),
    height=st.sampled_from([8, 16, 24]),
    width=st.sampled_from([8, 40]),
)
def test_no_knob_and_no_shape_changes_the_result(vae, layout, chunk, capacity, groups, height, width):
    clip = video(4 * groups + 1, height, width)
    latents = stock_latents(vae, clip)
    runner = VaeRunner(vae, Settings(layout=layout, chunk_size=chunk, cache_capacity=capacity), "cpu")
    assert relative_error(runner.encode(clip), latents) < 1e-5
    assert relative_error(decoded(runner, latents), stock_video(vae, latents)) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_clips_of_a_batch_do_not_mix(vae, layout):
    clips = video(9, batch=2)
    runner = VaeRunner(vae, Settings(layout=layout), "cpu")
    latents = stock_latents(vae, clips)
    assert relative_error(runner.encode(clips), latents) < 1e-5
    assert relative_error(decoded(runner, latents), stock_video(vae, latents)) < 1e-5


@pytest.mark.parametrize(("chunk", "lengths"), [(0, [13]), (1, [1] * 13), (4, [1, 4, 4, 4]), (8, [5, 8])])
def test_a_chunk_never_has_more_frames_than_asked(vae, chunk, lengths):
    runner = VaeRunner(vae, Settings(chunk_size=chunk), "cpu")
    latents = stock_latents(vae, video(13))
    assert [frames.shape[2] for frames in runner.decode(latents)] == lengths


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_features_on_the_device_stay_within_the_capacity(vae, layout, chunk):
    latents = stock_latents(vae, video(13))
    transfers = []
    for capacity_bytes in (0, 10_000, 100_000, 10_000_000):
        knobs = Settings(layout=layout, chunk_size=chunk, cache_capacity=capacity_bytes / GIB)
        runner = VaeRunner(vae, knobs, "cpu")
        decoded(runner, latents)
        measured = runner._meter.measured()
        assert measured["cache"]["features"]["peak_bytes"] <= capacity_bytes
        transfers.append(measured["transfers"]["h2d_bytes"])
    assert transfers == sorted(transfers, reverse=True)
    assert transfers[0] > transfers[-1]


def test_a_vae_that_normalises_over_frames_is_refused():
    vae = AutoencoderKLMagvit(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4,
                              down_block_types=["SpatialDownBlock3D"] * 2, up_block_types=["SpatialUpBlock3D"] * 2,
                              spatial_group_norm=False)  # fmt: skip
    with pytest.raises(ValueError, match="spatial_group_norm"):
        VaeRunner(vae, Settings(), "cpu")
