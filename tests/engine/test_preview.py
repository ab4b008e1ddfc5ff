"""Pictures of latents: the map is found, kept and used, and costs little."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from PIL import Image

from tuner.engine.denoise import clean_latents, make_scheduler
from tuner.engine.generate import generate
from tuner.engine.preview import (
    FILE_NAME,
    ColourFit,
    LatentColours,
    Preview,
    averaged_over_time,
    film_strip,
)
from tuner.errors import BadInput
from tuner.meter.events import Event, Previewed, StepDone
from tuner.models.components import Components
from tuner.request import Request
from tuner.settings import Settings

COLOURS = LatentColours(0.1 * torch.ones(3, 16), torch.zeros(3))
REQUEST = Request(prompt="x", width=64, height=48, frames=9, steps=4, seed=1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_decoder_that_is_linear_is_found_from_two_clips() -> None:
    weight, bias = 0.1 * random(3, 16, seed=1), torch.tensor([0.1, -0.2, 0.3])
    fit = ColourFit()
    for seed in (2, 3):
        latents = random(16, 3, 4, 6, seed=seed)
        fit.add(latents, torch.einsum("oc,cthw->othw", weight, latents) + bias.view(3, 1, 1, 1))
    found = ColourFit.from_json(fit.to_json()).solve()
    assert found is not None
    assert torch.allclose(found.weight, weight, atol=1e-3)
    assert torch.allclose(found.bias, bias, atol=1e-3)


def test_a_channel_that_carries_nothing_gets_no_weight() -> None:
    fit, latents = ColourFit(), random(16, 2, 8, 8)
    latents[3] = 0
    fit.add(latents, random(3, 2, 8, 8, seed=2))
    found = fit.solve()
    assert found is not None
    assert found.weight[:, 3].abs().max() == 0


@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_a_latent_frame_stands_for_one_frame_and_then_for_four_each(latent_frames: int) -> None:
    numbers = [0] + [n for n in range(1, latent_frames) for _ in range(4)]
    frames = torch.tensor(numbers).float().view(1, -1, 1, 1).expand(3, -1, 2, 2)
    assert averaged_over_time(frames)[0, :, 0, 0].tolist() == list(range(latent_frames))


def test_latents_become_one_small_picture_each() -> None:
    colours = LatentColours(torch.zeros(3, 16), torch.tensor([-1.0, 0.0, 5.0]))
    pictures = colours.pictures(random(16, 13, 16, 20))
    assert pictures.shape == (13, 16, 20, 3)
    assert pictures[0, 0, 0].tolist() == [0, 128, 255]


def test_a_strip_shows_the_pictures_in_their_order() -> None:
    pictures = torch.zeros(3, 128, 96, 3, dtype=torch.uint8)
    pictures[1, ..., 0] = 255
    strip = film_strip(pictures)
    with Image.open(io.BytesIO(strip)) as opened:
        shown = opened.convert("RGB")
        assert shown.size == (3 * 48, 64)
        reds = [shown.getpixel((48 * place + 24, 32))[0] for place in range(3)]  # type: ignore[index]
    assert reds[1] > 200 and max(reds[0], reds[2]) < 50


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++", "unipc"])
def test_without_its_noise_a_clip_is_what_it_was(demo: Components, name: str) -> None:
    scheduler = make_scheduler(name, demo.scheduler_config, 10)
    clean, noise, step = random(1, 16, 2, 4, 4), random(1, 16, 2, 4, 4, seed=1), 4
    signal = float(scheduler.alphas_cumprod[int(scheduler.timesteps[step])])
    noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
    velocity = signal**0.5 * noise - (1 - signal) ** 0.5 * clean
    found = clean_latents(scheduler, scheduler.timesteps[step], noisy, velocity)
    assert torch.allclose(found, clean, atol=1e-5)


def test_a_model_that_predicts_noise_is_shown_too(demo: Components) -> None:
    scheduler = make_scheduler("ddim", {**demo.scheduler_config, "prediction_type": "epsilon"}, 10)
    clean, noise, time = random(1, 16, 2, 4, 4), random(1, 16, 2, 4, 4, seed=1), scheduler.timesteps[4]
    signal = float(scheduler.alphas_cumprod[int(time)])
    noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
    assert torch.allclose(clean_latents(scheduler, time, noisy, noise), clean, atol=1e-4)


def test_a_flow_model_is_shown_too() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    scheduler = make_scheduler(None, config, 10)
    clean, noise = random(1, 16, 2, 4, 4), random(1, 16, 2, 4, 4, seed=1)
    share = float(scheduler.sigmas[3])
    noisy = (1 - share) * clean + share * noise
    assert torch.allclose(clean_latents(scheduler, scheduler.timesteps[3], noisy, noise - clean), clean, atol=1e-4)


def run(demo: Components, preview: Preview | None, **fields: Any) -> list[Event]:
    events: list[Event] = []
    settings = Settings(text_projection="original")
    generate(REQUEST.replace(**fields), settings, demo, on_event=events.append, preview=preview)
    return events


def test_every_step_shows_the_clip(demo: Components) -> None:
    shown = [event for event in run(demo, Preview(COLOURS)) if isinstance(event, Previewed)]
    assert [event.step for event in shown] == [1, 2, 3, 4]
    assert {event.frames for event in shown} == {3}
    with Image.open(io.BytesIO(b64decode(shown[-1].webp))) as strip:
        assert strip.size == (24, 6)


def test_showing_changes_nothing(demo: Components) -> None:
    settings = Settings(text_projection="original")
    plain = generate(REQUEST, settings, demo)
    shown = generate(REQUEST, settings, demo, preview=Preview(COLOURS))
    assert torch.equal(plain.latents, shown.latents)


def test_a_vae_without_a_map_teaches_one_as_it_decodes(demo: Components, tmp_path: Path) -> None:
    vae, folder = demo.vae, demo.path / "nowhere"
    first = Preview.of(vae, folder, tmp_path / "kept")
    assert not first.shows
    assert not [event for event in run(demo, first) if isinstance(event, Previewed)]
    later = Preview.of(vae, folder, tmp_path / "kept")
    assert later.shows
    assert [event for event in run(demo, later, seed=2) if isinstance(event, Previewed)]
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_text("{}")
    assert not Preview.of(vae, folder, tmp_path / "kept").shows


def test_showing_takes_less_than_a_twentieth_of_a_step(demo: Components) -> None:
    latents, preview = random(1, 16, 13, 16, 16), Preview(COLOURS)
    seconds = [
        event.seconds for event in run(demo, None, frames=49, width=128, height=128) if isinstance(event, StepDone)
    ]
    scheduler = make_scheduler(None, demo.scheduler_config, 4)
    took = []
    for _ in range(9):
        began = time.perf_counter()
        film_strip(preview.pictures(clean_latents(scheduler, scheduler.timesteps[1], latents, latents)[0]))
        took.append(time.perf_counter() - began)
    assert median(took) < 0.05 * median(seconds)


def test_the_map_is_kept_beside_the_vae(tmp_path: Path) -> None:
    assert LatentColours.load(tmp_path) is None
    kept = LatentColours(random(3, 16), random(3))
    kept.save(tmp_path)
    found = LatentColours.load(tmp_path)
    assert found is not None
    assert torch.allclose(found.weight, kept.weight)
    assert torch.allclose(found.bias, kept.bias)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"weight": [[1, 2]], "bias": [1]}', '{"weight": "x", "bias": [1, 2, 3]}']
)
def test_a_damaged_map_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(BadInput, match=FILE_NAME):
        LatentColours.load(tmp_path)
