from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from safetensors.torch import load_file, save_file

from tuner.models.check import Report, check_model
from tuner.models.configs import TRANSFORMERS, VAE
from tuner.models.keys import to_original
from tuner.models.load import load_model
from tuner.models.registry import find_model

TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")
PUBLISHED = {
    "easyanimate-v5-7b-inp": 6_813_097_536,
    "easyanimate-v5-12b-inp": 11_797_692_480,
    "easyanimate-v5.1-7b-inp": 6_814_670_912,
    "easyanimate-v5.1-12b-inp": 11_799_265_856,
}


def problems(report: Report) -> str:
    assert all("\n" not in str(problem) for problem in report.problems)
    return " | ".join(str(problem) for problem in report.problems)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_have_the_published_parameters(name):
    with init_empty_weights():
        transformer = EasyAnimateTransformer3DModel(**TRANSFORMERS[name])
    info = find_model(name)
    assert sum(weight.numel() for weight in transformer.parameters()) == PUBLISHED[name] == info.parameters
    blocks = sum(weight.numel() for weight in transformer.transformer_blocks.parameters())
    assert info.cache_bytes == 2 * blocks
    assert info.family == ("v5.1" if TRANSFORMERS[name]["text_embed_dim_t5"] is None else "v5")


def test_the_published_vae_has_the_published_parameters():
    with init_empty_weights():
        vae = AutoencoderKLMagvit(**VAE)
    assert sum(weight.numel() for weight in vae.parameters()) == 244_375_507


@pytest.mark.parametrize("which", ["demo", "tiny_v51"])
def test_a_good_checkpoint_is_counted_as_it_loads(which, request):
    folder = request.getfixturevalue(which)
    report, components = check_model(folder), load_model(folder, device="cpu")
    assert problems(report) == ""
    assert report.family == components.family
    modules = {
        "transformer": components.transformer,
        "vae": components.vae,
        "text_encoder": components.text_encoder,
    }
    if components.text_encoder_2 is not None:
        modules["text_encoder_2"] = components.text_encoder_2
    assert {part.name: part.parameters for part in report.parts} == {
        name: sum(weight.numel() for weight in module.parameters()) for name, module in modules.items()
    }
    for part in report.parts:
        stored = [load_file(file) for file in (folder / part.name).glob("*.safetensors")]
        assert part.files == len(stored)
        assert part.nbytes == sum(tensor.nbytes for held in stored for tensor in held.values())


def write_sparse(folder: Path, module: torch.nn.Module) -> None:
    """A file of the right names, shapes and length, whose tensors were never written."""
    header, end = {}, 0
    for name, tensor in module.state_dict().items():
        start, end = end, end + 2 * tensor.numel()
        header[to_original(name)] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / TRANSFORMER.name).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("name", ["easyanimate-v5-7b-inp", "easyanimate-v5.1-12b-inp"])
def test_a_sparse_copy_of_the_real_size_is_told_apart_at_once(name, demo, tiny_v51, tmp_path):
    base = tiny_v51 if "5.1" in name else demo
    folder = Path(shutil.copytree(base, tmp_path / "real"))
    (folder / "transformer/config.json").write_text(json.dumps(TRANSFORMERS[name]))
    with init_empty_weights():
        write_sparse(folder / "transformer", EasyAnimateTransformer3DModel(**TRANSFORMERS[name]))
    report = check_model(folder)
    (found,) = (part for part in report.parts if part.name == "transformer")
    assert (found.parameters, found.nbytes) == (PUBLISHED[name], 2 * PUBLISHED[name])
    assert "tensor transformer_blocks.0.attn1.to_q.weight" in problems(report)
    assert "sparse" in problems(report)


def test_a_truncated_copy_names_the_first_tensor_that_is_cut(checkpoint):
    content = (checkpoint / TRANSFORMER).read_bytes()
    (checkpoint / TRANSFORMER).write_bytes(content[:-1])
    report = check_model(checkpoint)
    assert f"the file ends at byte {len(content) - 1:,}" in problems(report)
    assert [part.name for part in report.parts] == ["vae", "text_encoder", "text_encoder_2"]


def test_everything_that_is_wrong_is_found_in_one_go(checkpoint):
    held = load_file(checkpoint / TRANSFORMER)
    held["proj.bias"] = torch.zeros(7)
    del held["transformer_blocks.0.attn2.norm_k.bias"], held["proj_out.weight"]
    held["transformer_blocks.9.attn2.to_q.bias"] = torch.zeros(2)
    save_file(held, checkpoint / TRANSFORMER)
    (checkpoint / "scheduler/scheduler_config.json").write_text("[]")
    (checkpoint / "vae/config.json").unlink()
    (checkpoint / "tokenizer_2/spiece.model").write_bytes(b"?")
    found = problems(check_model(checkpoint))
    for words in (
        "tensor transformer_blocks.0.attn2.norm_k.bias: 'missing'",
        "tensor proj_out.weight: 'missing'",
        "tensor proj.bias: 'shape [7]'",
        "tensor transformer_blocks.9.attn2.to_q.bias: 'unexpected'",
        "scheduler_config.json",
        "vae/config.json: 'missing file'",
        "spiece.model",
    ):
        assert words in found


def in_cache(folder: Path, cache: Path, shared: bool = False) -> Path:
    """``folder`` as the Hugging Face cache keeps it: links to blobs called by their digest.

    Args:
        folder: A checkpoint.
        cache: The cache.
        shared: Large blobs are links themselves, into a store of the whole cache.
    """
    blobs, snapshot = (
        cache / "models--someone--model" / "blobs",
        cache / "models--someone--model" / "snapshots" / "1f",
    )
    blobs.mkdir(parents=True)
    for number, file in enumerate(file for file in folder.rglob("*") if file.is_file()):
        content, link = file.read_bytes(), snapshot / file.relative_to(folder)
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        blob = blobs / (hashlib.sha256(content).hexdigest() if file.suffix == ".safetensors" else git)
        if shared and file.suffix == ".safetensors":
            stored = cache / "blobs" / f"{number:02x}" / f"{number:064x}"
            stored.parent.mkdir(parents=True)
            stored.write_bytes(content)
            blob.symlink_to(os.path.relpath(stored, blobs))
        else:
            blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_files_of_the_hugging_face_cache_are_compared_with_their_digests(demo, tmp_path, shared):
    snapshot, hashed = in_cache(demo, tmp_path, shared), []
    report = check_model(snapshot, on_bytes=hashed.append)
    assert problems(report) == ""
    parts = [*snapshot.glob("*/*"), snapshot / "model_index.json"]
    assert report.verified == len(parts)
    assert sum(hashed) == sum(file.stat().st_size for file in parts)
    assert load_model(snapshot, device="cpu").path == snapshot


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.txt"])
def test_one_wrong_byte_in_the_cache_is_found(demo, tmp_path, name):
    snapshot = in_cache(demo, tmp_path)
    blob = (snapshot / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert name in problems(check_model(snapshot))
