from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from tests.models.tiny_v51 import HIDDEN, LAYERS, SCHEDULER, write_tiny_v51
from tuner.errors import BadInput
from tuner.models.components import Components
from tuner.models.keys import to_diffusers
from tuner.models.load import load_model
from tuner.models.registry import find_model
from tuner.settings import Settings


@pytest.fixture(scope="module")
def components(tiny_v51) -> Components:
    return load_model(tiny_v51, device="cpu")


def tokens(components: Components, *prompts: str) -> dict[str, torch.Tensor]:
    texts = [
        components.tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": prompt}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for prompt in prompts
    ]
    encoded = components.tokenizer(
        texts, padding="max_length", max_length=64, truncation=True, padding_side="right", return_tensors="pt"
    )
    return {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}


def text_shards(folder: Path) -> dict[str, torch.Tensor]:
    return {name: held for file in folder.glob("*.safetensors") for name, held in load_file(file).items()}


def test_the_family_is_told_by_what_is_there(components, tiny_v51, demo):
    assert components.family == find_model(tiny_v51).family == "v5.1"
    assert load_model(demo, device="cpu").family == find_model(demo).family == "v5"
    assert components.text_encoder_2 is None and components.tokenizer_2 is None


def test_the_scheduler_config_is_the_files(components):
    assert components.scheduler_config == SCHEDULER


def test_the_encoders_states_are_those_the_model_was_trained_with(components, tiny_v51):
    """The original takes ``hidden_states[-2]`` of the whole model."""
    whole = Qwen2VLForConditionalGeneration.from_pretrained(tiny_v51 / "text_encoder").eval()
    given = tokens(components, "a red ball", "一个红色的球 🐉 " * 20, "")
    with torch.no_grad():
        expected = whole(**given, output_hidden_states=True).hidden_states[-2]
        states = components.text_encoder(**given)[0]
    assert states.shape == (3, 64, HIDDEN)
    assert torch.equal(states, expected)


def test_what_is_not_needed_is_not_there(components):
    names = dict(components.text_encoder.named_parameters())
    assert len(components.text_encoder.layers) == LAYERS - 1
    assert not any(word in name for name in names for word in ("visual", "lm_head", f"layers.{LAYERS - 1}."))
    assert not any(name.startswith("norm") for name in names)


def test_the_text_projection_norms_first(components, tiny_v51):
    stored = load_file(tiny_v51 / "transformer/diffusion_pytorch_model.safetensors")
    state = components.transformer.state_dict()
    assert {"text_proj.0.weight", "text_proj.1.weight"} <= stored.keys() and "text_proj_t5.weight" not in state
    for name, tensor in stored.items():
        assert torch.equal(state[to_diffusers(name)], tensor)


@pytest.mark.parametrize("newer", [False, True], ids=["older names", "newer names"])
def test_both_ways_to_name_qwens_tensors_load_to_the_same(components, checkpoint_v51, newer):
    folder = checkpoint_v51 / "text_encoder"
    tensors = text_shards(folder)
    assert "visual.patch_embed.proj.weight" in tensors and "model.norm.weight" in tensors
    for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        file.unlink()
    if newer:
        tensors = {
            name.replace("model.", "model.language_model.", 1)
            if name.startswith("model.")
            else f"model.{name}": held
            for name, held in tensors.items()
            if name != "lm_head.weight"
        }
    save_file(tensors, folder / "model.safetensors")
    again = load_model(checkpoint_v51, device="cpu").text_encoder.state_dict()
    for name, tensor in components.text_encoder.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_the_flat_config_of_the_published_encoder_is_read_the_same(components, checkpoint_v51):
    file = checkpoint_v51 / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text.pop("layer_types")
    flat = {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    file.write_text(json.dumps({**config, **text, **flat, "model_type": "qwen2_vl"}))
    again = load_model(checkpoint_v51, device="cpu")
    given = tokens(components, "a red ball")
    with torch.no_grad():
        assert torch.equal(again.text_encoder(**given)[0], components.text_encoder(**given)[0])


def test_precision_decides_the_dtype_of_every_weight(tiny_v51):
    components = load_model(tiny_v51, Settings(precision="bfloat16"), device="cpu")
    for module in (components.transformer, components.vae, components.text_encoder):
        assert {tensor.dtype for tensor in module.parameters()} == {torch.bfloat16}


def lose(root: Path, key: str) -> None:
    for file in (root / "text_encoder").glob("*.safetensors"):
        held = load_file(file)
        if held.pop(key, None) is not None:
            save_file(held, file)


def rewrite(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


DAMAGES = {
    "missing tensor": (
        lambda root: lose(root, "model.layers.1.self_attn.q_proj.bias"),
        ["text_encoder", "tensor model.layers.1.self_attn.q_proj.bias", "missing"],
    ),
    "missing vocabulary": (lambda root: (root / "tokenizer/vocab.json").unlink(), ["tokenizer/tokenizer.json"]),
    "missing merges": (lambda root: (root / "tokenizer/merges.txt").unlink(), ["tokenizer", "merges.txt"]),
    "no chat template": (
        lambda root: rewrite(root / "tokenizer/tokenizer_config.json", chat_template=None),
        ["tokenizer", "chat_template"],
    ),
    "an unwanted T5": (
        lambda root: rewrite(root / "transformer/config.json", text_embed_dim_t5=64),
        ["transformer/config.json, text_embed_dim_t5", "None"],
    ),
    "missing shard": (
        lambda root: (root / "text_encoder/model-00004-of-00012.safetensors").unlink(),
        ["text_encoder/model-00004-of-00012.safetensors", "missing"],
    ),
    "missing shard and index": (
        lambda root: (
            (root / "text_encoder/model.safetensors.index.json").unlink(),
            (root / "text_encoder/model-00012-of-00012.safetensors").unlink(),
        ),
        ["text_encoder/model-00012-of-00012.safetensors", "missing"],
    ),
    "a layer that is no number": (
        lambda root: rewrite(root / "text_encoder/config.json", text_config={"num_hidden_layers": "3"}),
        ["text_encoder/config.json, num_hidden_layers", "whole number"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_what_is_wrong(checkpoint_v51, damage):
    do, words = DAMAGES[damage]
    do(checkpoint_v51)
    with pytest.raises(BadInput) as refusal:
        load_model(checkpoint_v51, device="cpu")
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


def test_shards_without_an_index_load(components, checkpoint_v51):
    (checkpoint_v51 / "text_encoder/model.safetensors.index.json").unlink()
    again = load_model(checkpoint_v51, device="cpu").text_encoder.state_dict()
    assert all(torch.equal(again[name], held) for name, held in components.text_encoder.state_dict().items())


def test_the_helper_writes_the_same_weights_every_time(tiny_v51, tmp_path):
    write_tiny_v51(tmp_path)
    file = Path("transformer/diffusion_pytorch_model.safetensors")
    assert (tmp_path / file).read_bytes() == (tiny_v51 / file).read_bytes()
    assert text_shards(tmp_path / "text_encoder").keys() == text_shards(tiny_v51 / "text_encoder").keys()
