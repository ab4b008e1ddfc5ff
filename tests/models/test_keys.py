from __future__ import annotations

from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel

from tests.engine.conftest import tiny_transformer
from tuner.demo.checkpoint import write_weights
from tuner.models.keys import to_diffusers, to_original
from tuner.models.weights import weight_files

MMDIT_LAYERS = 2


def transformer() -> EasyAnimateTransformer3DModel:
    return tiny_transformer(3, MMDIT_LAYERS)


def test_every_name_goes_to_the_original_and_back():
    names = list(transformer().state_dict())
    originals = [to_original(name) for name in names]
    assert len(set(originals)) == len(names)
    assert [to_diffusers(name) for name in originals] == names


def test_twelve_names_change_in_an_mmdit_block_and_none_elsewhere():
    changed = [name for name in transformer().state_dict() if to_original(name) != name]
    assert len(changed) == 12 * MMDIT_LAYERS
    assert {name.split(".")[1] for name in changed} == {"0", "1"}


def test_a_name_already_right_stays():
    for name in transformer().state_dict():
        assert to_diffusers(name) == name
        assert to_original(to_original(name)) == to_original(name)


def test_the_text_stream_is_the_second_attention_of_the_original():
    assert to_diffusers("transformer_blocks.17.attn2.to_out.0.weight") == (
        "transformer_blocks.17.attn1.to_add_out.weight"
    )
    assert to_original("transformer_blocks.0.attn1.norm_added_k.bias") == "transformer_blocks.0.attn2.norm_k.bias"


def test_weights_are_written_under_the_originals_names(tmp_path):
    from safetensors import safe_open

    folder = tmp_path / "transformer"
    folder.mkdir()
    write_weights(folder, transformer())
    (file,) = weight_files(folder)
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
    assert "transformer_blocks.1.attn2.to_q.weight" in names
    assert not any("add_q_proj" in name for name in names)
