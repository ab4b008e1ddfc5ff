from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import BadInput
from tuner.models.load import load_model
from tuner.models.registry import find_model, list_models

SEVEN = "easyanimate-v5-7b-inp"


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


def test_what_the_7b_model_weighs_is_what_diffusers_counts():
    from accelerate import init_empty_weights
    from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel

    with init_empty_weights():
        real = EasyAnimateTransformer3DModel(
            in_channels=33,
            out_channels=16,
            patch_size=2,
            num_layers=36,
            mmdit_layers=18,
            text_embed_dim=1024,
            text_embed_dim_t5=2048,
        )
    info = find_model(SEVEN)
    assert info.parameters == 6_813_097_536 == sum(weight.numel() for weight in real.parameters())
    assert info.cache_bytes == 2 * sum(weight.numel() for weight in real.transformer_blocks.parameters())


def test_a_model_that_is_not_installed_is_known_and_says_where_to_put_it(empty_models_dir):
    info = find_model(SEVEN)
    assert info.path is None
    with pytest.raises(BadInput) as refusal:
        load_model(SEVEN)
    assert str(empty_models_dir / SEVEN) in str(refusal.value)
    assert "TUNER_MODELS" in str(refusal.value)


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
