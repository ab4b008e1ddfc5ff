from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.demo_sizes import WIDTH
from tuner.errors import BadInput
from tuner.models.components import Components
from tuner.models.load import load_model
from tuner.settings import Settings

RANK = 4
LAYERS = {  # diffusers' path: the original's
    "transformer_blocks.0.attn1.to_q": "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.0.attn1.add_k_proj": "transformer_blocks.0.attn2.to_k",
    "transformer_blocks.0.attn1.to_add_out": "transformer_blocks.0.attn2.to_out.0",
    "transformer_blocks.2.attn1.to_out.0": "transformer_blocks.2.attn1.to_out.0",
    "transformer_blocks.4.ff.net.0.proj": "transformer_blocks.4.ff.net.0.proj",
    "transformer_blocks.0.txt_ff.net.2": "transformer_blocks.0.txt_ff.net.2",
    "transformer_blocks.3.norm1.linear": "transformer_blocks.3.norm1.linear",
    "text_proj_t5": "text_proj_t5",
    "proj": "proj",
}
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def plain() -> Components:
    return load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def pairs(plain) -> Pairs:
    """Down and up for each of the layers; ``proj`` is a convolution, its down one too."""
    torch.manual_seed(0)
    made = {}
    for name in LAYERS:
        shape = plain.transformer.get_submodule(name).weight.shape
        made[name] = torch.randn(RANK, *shape[1:]), torch.randn(shape[0], RANK, *[1] * (len(shape) - 2))
    return made


def kohya(pairs: Pairs, alpha: float | None, prefix: str = "lora_unet__") -> dict[str, torch.Tensor]:
    held = {}
    for name, (down, up) in pairs.items():
        path = prefix + LAYERS[name].replace(".", "_")
        held |= {f"{path}.lora_down.weight": down, f"{path}.lora_up.weight": up}
        if alpha is not None:
            held[f"{path}.alpha"] = torch.tensor(alpha)
    return held


def peft(
    pairs: Pairs, form: str = "transformer.{}.lora_{}.weight", original: bool = False
) -> dict[str, torch.Tensor]:
    held = {}
    for name, (down, up) in pairs.items():
        path = LAYERS[name] if original else name
        held |= {form.format(path, "A"): down, form.format(path, "B"): up}
    return held


def merged(file: Path, tensors: dict[str, torch.Tensor], weight: float = 1.0, **metadata: str) -> Components:
    save_file(tensors, file, metadata=metadata or None)
    return load_model("demo", device="cpu", loras=[(file, weight)])


def assert_is(components: Components, plain: Components, pairs: Pairs, scale: float) -> None:
    theirs = plain.transformer.state_dict()
    for key, weight in components.transformer.state_dict().items():
        name = key.removesuffix(".weight")
        if name in pairs and key.endswith(".weight"):
            down, up = (tensor.flatten(1).double() for tensor in pairs[name])
            expected = theirs[key].double() + scale * (up @ down).reshape(weight.shape)
            torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)
            assert not torch.equal(weight, theirs[key])
        else:
            assert torch.equal(weight, theirs[key]), key


@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (2.0, 0.5), (8.0, 2.0)])
def test_kohya_files_add_weight_times_alpha_over_rank(plain, pairs, tmp_path, alpha, factor):
    components = merged(tmp_path / "a.safetensors", kohya(pairs, alpha), 0.7)
    assert_is(components, plain, pairs, 0.7 * factor)
    assert components.loras == ((tmp_path / "a.safetensors", 0.7),)


@pytest.mark.parametrize(
    "held",
    [
        lambda pairs: kohya(pairs, None, "lora_unet_"),
        peft,
        lambda pairs: peft(pairs, original=True),
        lambda pairs: peft(pairs, "base_model.model.{}.lora_{}.weight"),
        lambda pairs: peft(pairs, "{}.lora_{}.default.weight"),
        lambda pairs: {
            name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): tensor
            for name, tensor in peft(pairs).items()
        },
        lambda pairs: dict(reversed(peft(pairs).items())),
    ],
)
def test_every_way_to_name_the_layers_gives_the_same(plain, pairs, tmp_path, held):
    assert_is(merged(tmp_path / "a.safetensors", held(pairs), -0.5), plain, pairs, -0.5)


def test_pefts_own_note_of_alpha_counts(plain, pairs, tmp_path):
    note = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK, "transformer.use_dora": False})
    components = merged(tmp_path / "a.safetensors", peft(pairs), 0.5, lora_adapter_metadata=note)
    assert_is(components, plain, pairs, 1.0)


def test_several_files_add_up_in_any_order_and_are_rounded_once(plain, pairs, tmp_path):
    save_file(kohya(pairs, None), tmp_path / "a.safetensors")
    save_file(peft({"proj": pairs["proj"]}), tmp_path / "b.safetensors")
    loras = [(tmp_path / "a.safetensors", 1.0), (tmp_path / "b.safetensors", -1.0)]
    settings = Settings(precision="bfloat16")
    one, other = (
        load_model("demo", settings, "cpu", loras=order).transformer.state_dict() for order in (loras, loras[::-1])
    )
    stored = load_model("demo", settings, "cpu").transformer.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    # Had the large sum in between been rounded to bfloat16, the weights would be off by 0.01.
    torch.testing.assert_close(one["proj.weight"], stored["proj.weight"], rtol=2**-7, atol=1e-5)
    assert not torch.equal(one["text_proj_t5.weight"], stored["text_proj_t5.weight"])


def test_a_weight_of_zero_changes_nothing(plain, pairs, tmp_path):
    components = merged(tmp_path / "a.safetensors", kohya(pairs, 4.0), 0)
    for key, weight in components.transformer.state_dict().items():
        assert torch.equal(weight, plain.transformer.state_dict()[key])


ONE = "lora_unet__transformer_blocks_0_attn1_to_q"
DOWN, UP = {f"{ONE}.lora_down.weight": torch.zeros(4, WIDTH)}, {f"{ONE}.lora_up.weight": torch.zeros(WIDTH, 4)}
MISFITS = {
    "a layer that is not there": (
        {**DOWN, **UP, "lora_unet__transformer_blocks_99_attn1_to_q.lora_down.weight": torch.zeros(4, WIDTH)},
        ["tensor lora_unet__transformer_blocks_99_attn1_to_q.lora_down.weight"],
    ),
    "a text encoder's": (
        {**DOWN, **UP, "lora_te_layers_0.lora_down.weight": torch.zeros(4, 8)},
        ["tensor lora_te_"],
    ),
    "another method": ({**DOWN, **UP, f"{ONE}.hada_w1_a": torch.zeros(4, 4)}, [f"tensor {ONE}.hada_w1_a"]),
    "a whole model": (
        {"transformer_blocks.0.attn1.to_q.weight": torch.zeros(WIDTH, WIDTH)},
        ["tensor transformer_blocks"],
    ),
    "a model of another width": (
        {**UP, f"{ONE}.lora_down.weight": torch.zeros(4, 3072)},
        [f"tensor {ONE}.lora_down.weight", "[4, 3072]", f"[4, {WIDTH}]"],
    ),
    "an up of another rank": (
        {**DOWN, f"{ONE}.lora_up.weight": torch.zeros(WIDTH, 8)},
        [f"tensor {ONE}.lora_up.weight", f"[{WIDTH}, 8]", f"[{WIDTH}, 4]"],
    ),
    "a down alone": (DOWN, [f"tensor {ONE}.lora_down.weight", "no up"]),
    "an alpha of many": (
        {**DOWN, **UP, f"{ONE}.alpha": torch.zeros(3)},
        [f"tensor {ONE}.alpha", "[3]"],
    ),
    "one layer by two names": (
        {**DOWN, **UP, "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.zeros(4, WIDTH)},
        ["transformer_blocks", "to_q"],
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_file_that_does_not_fit_is_refused_by_its_first_wrong_key(tmp_path, misfit):
    tensors, words = MISFITS[misfit]
    with pytest.raises(BadInput) as refusal:
        merged(tmp_path / "style.safetensors", tensors)
    assert "\n" not in str(refusal.value)
    for word in ["style.safetensors", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"use_dora": true}', '{"alpha_pattern": {"a": 1}}', '{"lora_alpha": "8"}']
)
def test_a_note_that_cannot_be_followed_is_refused(pairs, tmp_path, note):
    with pytest.raises(BadInput, match=r"a\.safetensors"):
        merged(tmp_path / "a.safetensors", peft(pairs), lora_adapter_metadata=note)


@pytest.mark.parametrize("weight", [math.nan, math.inf, "1", None, True])
def test_a_weight_that_is_no_number_is_refused(pairs, tmp_path, weight):
    with pytest.raises(BadInput, match="finite number"):
        merged(tmp_path / "a.safetensors", peft(pairs), weight)


def test_a_pickle_and_a_missing_file_are_refused(tmp_path):
    torch.save({}, tmp_path / "a.pt")
    for name in ("a.pt", "gone.safetensors"):
        with pytest.raises(BadInput, match=name):
            load_model("demo", device="cpu", loras=[(tmp_path / name, 1.0)])


def test_a_file_that_does_not_fit_is_refused_before_the_model_is_read(tmp_path, checkpoint):
    save_file(DOWN, tmp_path / "a.safetensors")
    (checkpoint / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"never opened")
    with pytest.raises(BadInput, match=r"a\.safetensors"):
        load_model(checkpoint, device="cpu", loras=[(tmp_path / "a.safetensors", 1.0)])
