from __future__ import annotations

import filecmp
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from tuner.demo.checkpoint import main, write_demo
from tuner.demo.prompts import plain_prompt
from tuner.demo.scene import random_scene
from tuner.demo.tokenizers import word_pieces
from tuner.demo.words import COLOURS, MOTIONS, SETTINGS, SHAPES, STYLES
from tuner.models.load import load_model

SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "samples"


def files(folder: Path) -> list[Path]:
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


def test_the_script_writes_the_same_bytes_every_time(written, tmp_path, capsys):
    main([str(tmp_path)])
    assert "altogether" in capsys.readouterr().out
    same, different, unreadable = filecmp.cmpfiles(written, tmp_path, files(written), shallow=False)
    assert (len(same), different, unreadable) == (len(files(tmp_path)), [], [])


def test_the_global_random_state_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    write_demo(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_ships_is_what_the_script_lays_out_and_at_most_16_megabytes(written, demo):
    assert set(files(written)) <= set(files(demo))
    assert sum((demo / file).stat().st_size for file in files(demo)) <= 16_000_000


def test_random_weights_draw_finite_pictures_that_are_not_flat(written):
    components = load_model(written, device="cpu")
    scheduler = DDIMScheduler.from_config(components.scheduler_config)
    scheduler.set_timesteps(3)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 2, 8, 8, generator=generator)
    with torch.no_grad():
        bert, t5 = (
            encoder(tokenizer("a red ball", return_tensors="pt").input_ids)[0]
            for tokenizer, encoder in (
                (components.tokenizer, components.text_encoder),
                (components.tokenizer_2, components.text_encoder_2),
            )
        )
        for timestep in scheduler.timesteps:
            velocity = components.transformer(
                latents,
                timestep[None].float(),
                encoder_hidden_states=bert,
                encoder_hidden_states_t5=t5,
                inpaint_latents=torch.zeros(1, 17, 2, 8, 8),
                return_dict=False,
            )[0]
            latents = scheduler.step(velocity, timestep, latents).prev_sample
        video = components.vae.decode(latents / components.vae.config["scaling_factor"]).sample
    assert video.shape == (1, 3, 5, 64, 64)
    assert video.isfinite().all()
    assert 0.1 < video.std() < 1
    assert 0.5 < latents.std() < 2


@pytest.mark.parametrize("group", [COLOURS, SHAPES, MOTIONS, SETTINGS, STYLES])
def test_every_word_of_the_language_has_pieces_of_its_own(group):
    pieces = set(word_pieces())
    for words in group.values():
        for way in words.en:
            assert {word for word in way.lower().replace("-", " ").split() if len(word) > 1} <= pieces
        for way in words.zh:
            assert set(way) <= pieces


def test_t5s_ids_are_sentencepieces_own(written):
    from sentencepiece import SentencePieceProcessor

    tokenizer = load_model(written, device="cpu").tokenizer_2
    pieces = SentencePieceProcessor(model_file=str(written / "tokenizer_2" / "spiece.model"))
    prompts = [plain_prompt(random_scene(0), language) for language in ("en", "zh")]
    for text in [*prompts, "", "  two   spaces ", "🐉 Ωmega ﬁne １２ 𠮷", "tab\tnew\nline…"]:
        assert tokenizer(text).input_ids == [*pieces.encode(text), pieces.eos_id()]


def test_four_photographs_with_their_licence_ship_as_start_images():
    pictures = sorted(SAMPLES.glob("*.jpg"))
    licence = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(pictures) == 4
    for picture in pictures:
        assert f"`{picture.name}`" in licence
        with Image.open(picture) as image:
            assert max(image.size) <= 512
