from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from diffusers import EasyAnimateInpaintPipeline
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from safetensors.torch import load_file

from tuner.errors import BadInput, TunerError
from tuner.models import convert
from tuner.models.check import check_model
from tuner.models.convert import convert_model, tensor_bytes
from tuner.models.load import load_model

BERT = Path("text_encoder/model.safetensors")


def parts(folder: Path) -> dict[str, torch.nn.Module]:
    loaded = load_model(folder, device="cpu")
    modules = {name: getattr(loaded, name) for name in ("transformer", "vae", "text_encoder", "text_encoder_2")}
    return {name: module for name, module in modules.items() if module is not None}


@pytest.mark.parametrize("which", ["demo", "tiny_v51"])
def test_what_was_converted_loads_to_the_same_tensors(which, request, tmp_path):
    source, written = request.getfixturevalue(which), []
    target = convert_model(source, tmp_path / "new", on_bytes=written.append, shard_bytes=1_000_000)
    assert sum(written) == tensor_bytes(source)
    assert not check_model(target).problems
    assert not any(tmp_path.glob(".*"))
    before, after = parts(source), parts(target)
    assert before.keys() == after.keys()
    for name, module in before.items():
        state = after[name].state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())


def test_diffusers_own_classes_load_it_without_a_word(demo, tmp_path):
    target = convert_model(demo, tmp_path / "new")
    for kind, part in ((EasyAnimateTransformer3DModel, "transformer"), (AutoencoderKLMagvit, "vae")):
        module, told = kind.from_pretrained(target / part, output_loading_info=True)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        ours = parts(demo)[part].state_dict()
        assert all(torch.equal(tensor.float(), ours[key]) for key, tensor in module.state_dict().items())


def test_v51_becomes_what_diffusers_pipeline_reads(tiny_v51, tmp_path):
    pipeline = EasyAnimateInpaintPipeline.from_pretrained(convert_model(tiny_v51, tmp_path / "new"))
    states = pipeline.encode_prompt("a red ball", do_classifier_free_guidance=False, max_sequence_length=32)[0]
    ours = load_model(tiny_v51, device="cpu")
    text = "<|im_start|>user\na red ball<|im_end|>\n<|im_start|>assistant\n"
    given = ours.tokenizer(text, padding="max_length", max_length=32, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(ours.text_encoder(given.input_ids, attention_mask=given.attention_mask)[0], states)
    assert pipeline.vae.config["cache_mag_vae"] is True


def test_no_file_is_larger_than_asked_and_the_index_names_each_tensor(tiny_v51, tmp_path):
    target = convert_model(tiny_v51, tmp_path / "new", shard_bytes=400_000)
    folder = target / "transformer"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert files[0].name == f"diffusion_pytorch_model-00001-of-{len(files):05}.safetensors"
    stored = {file.name: load_file(file) for file in files}
    assert len(files) > 2
    assert all(sum(tensor.nbytes for tensor in held.values()) <= 400_000 for held in stored.values())
    assert index["weight_map"] == {key: name for name, held in stored.items() for key in held}
    assert index["metadata"]["total_size"] == sum(t.nbytes for held in stored.values() for t in held.values())


def test_pickles_become_safetensors(checkpoint, tmp_path):
    expected = load_file(checkpoint / BERT)
    torch.save(expected, checkpoint / "text_encoder/pytorch_model.bin")
    (checkpoint / BERT).unlink()
    with pytest.raises(BadInput, match="pickle"):
        convert_model(checkpoint, tmp_path / "new")
    stored = load_file(convert_model(checkpoint, tmp_path / "new", allow_pickle=True) / BERT)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("there", ["a folder", "a file", "a link that leads nowhere"])
def test_nothing_is_overwritten(demo, tmp_path, there):
    target = tmp_path / "new"
    if there == "a folder":
        target.mkdir()
    elif there == "a file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match="nothing is overwritten"):
        convert_model(demo, target)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_damaged_source_is_refused_before_anything_is_written(checkpoint, tmp_path):
    (checkpoint / BERT).write_bytes(b"")
    with pytest.raises(BadInput, match=r"text_encoder/model\.safetensors"):
        convert_model(checkpoint, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small_is_refused(demo, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9, 1000))
    with pytest.raises(BadInput, match="room for"):
        convert_model(demo, tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing_behind(demo, tmp_path):
    def full(count: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TunerError, match="No space left on device"):
        convert_model(demo, tmp_path / "new", on_bytes=full)
    assert not any(tmp_path.iterdir())


def test_shards_are_five_gigabytes_unless_asked_otherwise():
    assert convert.SHARD_BYTES == 5_000_000_000
