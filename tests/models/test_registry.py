from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import BadInput
from tuner.models.load import load_model
from tuner.models.registry import find_model, list_models

SEVEN = "easyanimate-v5-7b-inp"
PUBLISHED = [
    (SEVEN, "alibaba-pai/EasyAnimateV5-7b-zh-InP", "22 GB"),
    ("easyanimate-v5-12b-inp", "alibaba-pai/EasyAnimateV5-12b-zh-InP", "34 GB"),
    ("easyanimate-v5.1-7b-inp", "alibaba-pai/EasyAnimateV5.1-7b-zh-InP", "30 GB"),
    ("easyanimate-v5.1-12b-inp", "alibaba-pai/EasyAnimateV5.1-12b-zh-InP", "39 GB"),
]


@pytest.fixture(autouse=True)
def empty_models_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_demo_comes_first_and_is_installed():
    demo = list_models()[0]
    assert demo.name == "demo"
    assert (demo.folder() / "model_index.json").is_file()
    assert (demo.width, demo.height, demo.frames, demo.steps, demo.fps) == (128, 128, 49, 12, 8)


def test_what_the_demo_weighs_is_what_loading_it_gives():
    info, transformer = find_model("demo"), load_model("demo", device="cpu").transformer
    assert info.parameters == sum(weight.numel() for weight in transformer.parameters())
    assert info.cache_bytes == sum(weight.nbytes for weight in transformer.transformer_blocks.parameters())


@pytest.mark.parametrize(("name", "repository", "size"), PUBLISHED)
def test_a_model_that_is_not_here_says_which_files_how_large_and_where(empty_models_dir, name, repository, size):
    info = find_model(name)
    assert info.path is None
    for attempt in (lambda: load_model(name), info.folder):
        with pytest.raises(BadInput) as refusal:
            attempt()
        message = str(refusal.value)
        assert "\n" not in message
        for words in (repository, size, str(empty_models_dir / name), "TUNER_MODELS", "model_index.json", "vae/"):
            assert words in message
        assert ("text_encoder_2/" in message) == (info.family == "v5")
    with pytest.raises(BadInput, match=r"offline|connection"):
        load_model(name)


@pytest.mark.parametrize("name", [SEVEN, "EasyAnimateV5-7b-zh-InP"])
def test_a_folder_of_either_name_is_found(empty_models_dir, name):
    (empty_models_dir / name).mkdir(parents=True)
    (empty_models_dir / name / "model_index.json").write_text("{}")
    assert find_model(SEVEN).path == empty_models_dir / name


def test_a_folder_is_a_model_of_its_own_name(checkpoint):
    info, demo = find_model(checkpoint), find_model("demo")
    assert (info.name, info.path) == ("copy", checkpoint.resolve())
    assert (info.parameters, info.cache_bytes) == (demo.parameters, demo.cache_bytes)


def test_a_misspelt_name_is_answered_with_the_closest():
    with pytest.raises(BadInput, match=SEVEN):
        find_model("easyanimate-v5-7b")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"model_index\.json"):
        find_model(tmp_path)


@given(st.text(max_size=300))
def test_no_name_at_all_ends_in_anything_but_a_clear_refusal(name):
    try:
        find_model(name)
    except BadInput as refusal:
        assert "\n" not in str(refusal)


def test_listing_models_does_not_wait_for_torch():
    code = (
        "import sys; from tuner.models.registry import list_models; list_models(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def cached(cache: Path, repository: str, source: Path) -> Path:
    """``source`` as a snapshot in a Hugging Face cache."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1f")
    return Path(shutil.copytree(source, folder / "snapshots" / "1f"))


@pytest.mark.parametrize("suffix", ["", "-diffusers"])
def test_a_model_in_the_hugging_face_cache_is_found(demo, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cached(tmp_path / "hub", PUBLISHED[0][1] + suffix, demo)
    assert find_model(SEVEN).path == snapshot
    assert load_model(SEVEN, device="cpu").path == snapshot


def test_a_download_that_broke_off_does_not_count(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cached(tmp_path / "hub", PUBLISHED[0][1], demo)
    (snapshot / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert find_model(SEVEN).path is None


def test_a_folder_of_ones_own_comes_before_the_cache(demo, empty_models_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached(tmp_path / "hub", PUBLISHED[0][1], demo)
    own = Path(shutil.copytree(demo, empty_models_dir / SEVEN))
    assert find_model(SEVEN).path == own
