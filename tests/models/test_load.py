from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file, save_file

import tuner
from tests.demo_sizes import TEXT_WIDTH, TOKENS, WIDTH
from tuner.errors import BadInput
from tuner.models.attention import OriginalAttnProcessor
from tuner.models.components import Components
from tuner.models.keys import to_diffusers
from tuner.models.load import load_model
from tuner.settings import Settings

TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")
VAE = Path("vae/diffusion_pytorch_model.safetensors")
BERT = Path("text_encoder/model.safetensors")
T5 = Path("text_encoder_2/model.safetensors")


@pytest.fixture(scope="module")
def components() -> Components:
    return load_model("demo", device="cpu")


def parts(components: Components) -> dict[Path, torch.nn.Module]:
    return {
        TRANSFORMER: components.transformer,
        VAE: components.vae,
        BERT: components.text_encoder,
        T5: components.text_encoder_2,
    }


def assert_holds_the_file(module: torch.nn.Module, file: Path) -> None:
    state = module.state_dict()
    stored = load_file(file)
    repeated = {"encoder.embed_tokens.weight"}
    assert state.keys() - repeated == {to_diffusers(name) for name in stored}
    for name, tensor in stored.items():
        held = state[to_diffusers(name)]
        assert torch.equal(held, tensor.to(held.dtype)), name


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("file", [TRANSFORMER, VAE, BERT, T5], ids=lambda file: file.parent.name)
def test_every_tensor_is_the_files(components, demo, file):
    assert_holds_the_file(parts(components)[file], demo / file)


def test_nothing_is_left_on_the_meta_device_and_nothing_trains(components):
    for module in parts(components).values():
        assert not module.training
        for tensor in [*module.parameters(), *module.buffers()]:
            assert tensor.device.type == "cpu"
            assert not tensor.requires_grad


def test_a_weights_storage_holds_that_weight_only(components):
    for module in parts(components).values():
        for tensor in module.parameters():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_bert_counts_its_positions_from_zero(components):
    positions = components.text_encoder.embeddings.position_ids
    assert positions.flatten().tolist() == list(range(components.tokenizer.model_max_length))


def test_t5_looks_its_tokens_up_in_one_table(components):
    t5 = components.text_encoder_2
    assert t5.encoder.embed_tokens.weight is t5.shared.weight


def test_every_block_attends_as_the_original_does(components):
    attentions = [module for module in components.transformer.modules() if isinstance(module, Attention)]
    assert len(attentions) == components.transformer.config["num_layers"]
    assert all(isinstance(attention.processor, OriginalAttnProcessor) for attention in attentions)


def test_any_text_becomes_tokens_that_the_encoders_know(components):
    for text in ("a red ball moving right", "一个红色的球向右移动", "🐉 Ωmega 𠮷", "", "x" * 5000):
        for tokenizer, encoder in (
            (components.tokenizer, components.text_encoder),
            (components.tokenizer_2, components.text_encoder_2),
        ):
            ids = tokenizer(
                text,
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            assert ids.max() < encoder.config.vocab_size
            assert encoder(ids)[0].isfinite().all()


def test_the_package_gives_load_model():
    assert tuner.load_model is load_model


def test_the_vae_config_answers_what_pipelines_ask(components):
    assert components.vae.config["cache_mag_vae"] is True


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_precision_decides_the_dtype_of_every_weight(precision, dtype):
    components = load_model("demo", Settings(precision=precision), device="cpu")
    assert components.dtype == dtype
    for module in parts(components).values():
        assert {tensor.dtype for tensor in module.parameters()} == {dtype}


def test_t5_keeps_the_layer_that_overflows_in_float32():
    components = load_model("demo", Settings(precision="float16"), device="cpu")
    wide = {name for name, tensor in components.text_encoder_2.named_parameters() if tensor.dtype == torch.float32}
    assert wide == {f"encoder.block.{i}.layer.1.DenseReluDense.wo.weight" for i in range(2)}
    assert (
        components.text_encoder_2(components.tokenizer_2("red", return_tensors="pt").input_ids)[0].isfinite().all()
    )


def test_the_diffusers_layout_loads_to_the_same_tensors(checkpoint, demo):
    renamed = {to_diffusers(name): tensor for name, tensor in load_file(checkpoint / TRANSFORMER).items()}
    assert any("add_q_proj" in name for name in renamed)
    save_file(renamed, checkpoint / TRANSFORMER)
    assert_holds_the_file(load_model(checkpoint, device="cpu").transformer, demo / TRANSFORMER)


def shard(file: Path) -> list[Path]:
    tensors = load_file(file)
    shards = [file.with_name(f"part-{number}.safetensors") for number in (1, 2)]
    weight_map = {}
    for number, shard_file in enumerate(shards):
        names = sorted(tensors)[number::2]
        save_file({name: tensors[name] for name in names}, shard_file)
        weight_map |= dict.fromkeys(names, shard_file.name)
    file.with_name(f"{file.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    file.unlink()
    return shards


def test_sharded_files_load_to_the_same_tensors(checkpoint, demo):
    for file in (TRANSFORMER, T5):
        shard(checkpoint / file)
    components = load_model(checkpoint, device="cpu")
    for file in (TRANSFORMER, T5):
        assert_holds_the_file(parts(components)[file], demo / file)


def test_what_old_files_store_beside_the_weights_is_passed_over(checkpoint):
    change_tensors(
        checkpoint / BERT, lambda held: held.update({"embeddings.position_ids": torch.zeros(1, TOKENS)})
    )
    change_tensors(
        checkpoint / T5, lambda held: held.update({"encoder.embed_tokens.weight": held["shared.weight"].clone()})
    )
    components = load_model(checkpoint, device="cpu")
    assert components.text_encoder.embeddings.position_ids.max() == TOKENS - 1


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose_a_shard(file: Path) -> None:
    shard(file)[1].unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated weights": (lambda root: truncate(root / VAE), ["vae/diffusion_pytorch_model.safetensors", "whole"]),
    "empty weights": (lambda root: (root / BERT).write_bytes(b""), ["text_encoder/model.safetensors"]),
    "weights that are text": (lambda root: (root / T5).write_text("version https://"), [str(T5)]),
    "missing weights": (lambda root: (root / TRANSFORMER).unlink(), [str(TRANSFORMER), "missing"]),
    "missing T5 weights": (lambda root: (root / T5).unlink(), [str(T5), "missing"]),
    "missing shard": (
        lambda root: lose_a_shard(root / TRANSFORMER),
        ["transformer/part-2.safetensors", "missing"],
    ),
    "index without a map": (
        lambda root: (root / f"{VAE}.index.json").write_text("{}"),
        ["vae/diffusion_pytorch_model.safetensors.index.json", "weight_map"],
    ),
    "missing config": (lambda root: (root / "vae/config.json").unlink(), ["vae/config.json", "missing"]),
    "missing model index": (lambda root: (root / "model_index.json").unlink(), ["model_index.json"]),
    "missing scheduler": (
        lambda root: (root / "scheduler/scheduler_config.json").unlink(),
        ["scheduler/scheduler_config.json", "missing"],
    ),
    "missing vocabulary": (
        lambda root: (root / "tokenizer/vocab.txt").unlink(),
        ["tokenizer/vocab.txt", "missing"],
    ),
    "damaged SentencePiece model": (
        lambda root: (root / "tokenizer_2/spiece.model").write_bytes(b"nonsense"),
        ["tokenizer_2/spiece.model"],
    ),
    "config that is no JSON": (
        lambda root: (root / "transformer/config.json").write_text("{heads: 6"),
        ["transformer/config.json", "JSON"],
    ),
    "config that is no object": (
        lambda root: (root / "text_encoder/config.json").write_text("[]"),
        ["text_encoder/config.json", "JSON object"],
    ),
    "config of a wrong type": (
        lambda root: change_json(root / "transformer/config.json", num_layers="six"),
        ["transformer/config.json, num_layers", "'six'", "a whole number"],
    ),
    "config of no use": (
        lambda root: change_json(root / "vae/config.json", norm_num_groups=0),
        ["vae/config.json, norm_num_groups", "a whole number from 1"],
    ),
    "missing tensor": (
        lambda root: change_tensors(root / TRANSFORMER, lambda held: held.pop("proj_out.bias")),
        [str(TRANSFORMER), "proj_out.bias"],
    ),
    "missing text stream": (
        lambda root: change_tensors(root / TRANSFORMER, lambda h: h.pop("transformer_blocks.0.attn2.to_q.weight")),
        [str(TRANSFORMER), "transformer_blocks.0.attn2.to_q.weight", "missing"],
    ),
    "unexpected tensor": (
        lambda root: change_tensors(root / VAE, lambda held: held.update({"extra.weight": torch.zeros(2)})),
        [str(VAE), "extra.weight"],
    ),
    "tensor twice": (
        lambda root: change_tensors(
            root / TRANSFORMER,
            lambda h: h.update({"transformer_blocks.0.attn1.add_q_proj.bias": torch.zeros(WIDTH)}),
        ),
        [str(TRANSFORMER), "once"],
    ),
    "wrong shape": (
        lambda root: change_tensors(root / TRANSFORMER, lambda held: held.update({"proj.bias": torch.zeros(7)})),
        [str(TRANSFORMER), "proj.bias", "[7]", f"[{WIDTH}]"],
    ),
    "another architecture": (
        lambda root: change_json(root / "transformer/config.json", ref_channels=16),
        ["transformer/config.json", "ref_channels"],
    ),
    "parts that do not fit": (
        lambda root: (
            change_json(root / "transformer/config.json", text_embed_dim=8),
            change_tensors(root / TRANSFORMER, lambda h: h.update({"text_proj.weight": torch.zeros(WIDTH, 8)})),
        ),
        ["transformer/config.json", "text_embed_dim", str(TEXT_WIDTH)],
    ),
    "a text encoder of another kind": (
        lambda root: change_json(root / "text_encoder/config.json", model_type="clip_text_model"),
        ["text_encoder/config.json, model_type", "bert", "qwen2_vl"],
    ),
    "config that builds nothing": (
        lambda root: change_json(root / "vae/config.json", down_block_types=["NoSuchBlock"] * 4),
        ["vae/config.json", "valid model config"],
    ),
    "heads the rotary embedding cannot split": (
        lambda root: change_json(root / "transformer/config.json", attention_head_dim=24),
        ["transformer/config.json, attention_head_dim", "a multiple of 16"],
    ),
    "a width that is true": (
        lambda root: change_json(root / "transformer/config.json", text_embed_dim=True),
        ["transformer/config.json, text_embed_dim", "a whole number"],
    ),
    "an epsilon that is text": (
        lambda root: change_json(root / "transformer/config.json", norm_eps="1e-5"),
        ["transformer/config.json, norm_eps", "a number above 0"],
    ),
    "more layers than any model has": (
        lambda root: change_json(root / "text_encoder_2/config.json", num_layers=10**9),
        ["text_encoder_2/config.json, num_layers", "512"],
    ),
    "a text config of a wrong type": (
        lambda root: change_json(root / "text_encoder/config.json", hidden_act=7),
        ["text_encoder/config.json"],
    ),
    "a scheduler that cannot be": (
        lambda root: change_json(root / "scheduler/scheduler_config.json", beta_start="much"),
        ["scheduler/scheduler_config.json, beta_start", "a number above 0"],
    ),
    "weights that are whole numbers": (
        lambda root: change_tensors(
            root / VAE, lambda held: held.update({"quant_conv.bias": held["quant_conv.bias"].to(torch.int32)})
        ),
        [str(VAE), "quant_conv.bias", "I32", "BF16"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_what_is_wrong(checkpoint, damage):
    do, words = DAMAGES[damage]
    do(checkpoint)
    with pytest.raises(BadInput) as refusal:
        load_model(checkpoint, device="cpu")
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(BadInput, match="device"):
        load_model("demo", device="toaster")
