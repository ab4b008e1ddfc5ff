from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tuner.errors import BadInput
from tuner.models.check import check_model
from tuner.models.load import load_model

TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")
BERT = Path("text_encoder/model.safetensors")


def as_pickle(file: Path, name: str) -> Path:
    """The same tensors, saved by torch under ``name``."""
    pickled = file.with_name(name)
    torch.save(load_file(file), pickled)
    file.unlink()
    return pickled


def refusal(folder: Path, **options: bool) -> str:
    with pytest.raises(BadInput) as refused:
        load_model(folder, device="cpu", **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_pickles_are_refused_and_the_message_says_what_to_do(checkpoint):
    as_pickle(checkpoint / BERT, "pytorch_model.bin")
    message = refusal(checkpoint)
    assert "text_encoder/pytorch_model.bin" in message
    assert "--allow-pickle" in message
    assert "--allow-pickle" in str(check_model(checkpoint).problems[0])


def test_pickles_that_are_allowed_load_to_the_same_tensors(checkpoint, demo):
    as_pickle(checkpoint / BERT, "pytorch_model.bin")
    nested = as_pickle(checkpoint / TRANSFORMER, "diffusion_pytorch_model.bin")
    torch.save({"state_dict": torch.load(nested), "epoch": 3}, nested)
    ours, theirs = load_model(checkpoint, device="cpu", allow_pickle=True), load_model(demo, device="cpu")
    for part in ("transformer", "text_encoder"):
        state = getattr(ours, part).state_dict()
        for name, tensor in getattr(theirs, part).state_dict().items():
            assert torch.equal(state[name], tensor), name
    assert not check_model(checkpoint, allow_pickle=True).problems


def test_safetensors_are_taken_where_both_lie(checkpoint):
    (checkpoint / "text_encoder/pytorch_model.bin").write_bytes(b"never opened")
    load_model(checkpoint, device="cpu")


class Harmful:
    """What runs a program when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, (str(self.proof), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_an_allowed_pickle_is_run(checkpoint, tmp_path, zipped):
    file = checkpoint / "text_encoder/pytorch_model.bin"
    (checkpoint / BERT).unlink()
    if zipped:
        torch.save({"a": Harmful(tmp_path / "proof")}, file)
    else:
        file.write_bytes(pickle.dumps({"a": Harmful(tmp_path / "proof")}))
    assert "text_encoder/pytorch_model.bin" in refusal(checkpoint, allow_pickle=True)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text", pickle.dumps([1, 2])])
def test_an_allowed_pickle_that_holds_no_tensors_is_refused(checkpoint, content):
    (checkpoint / BERT).unlink()
    (checkpoint / "text_encoder/pytorch_model.bin").write_bytes(content)
    assert "text_encoder/pytorch_model.bin" in refusal(checkpoint, allow_pickle=True)


@pytest.mark.parametrize(
    "name", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.txt", "vae/config.json", "text_encoder"]
)
def test_a_link_that_leads_out_of_the_folder_is_refused(checkpoint, tmp_path, name):
    (checkpoint / name).rename(tmp_path / "elsewhere")
    (checkpoint / name).symlink_to(tmp_path / "elsewhere")
    assert f"copy/{name}".split("/")[-1] in refusal(checkpoint)
    assert "inside the checkpoint folder" in refusal(checkpoint)
    report = check_model(checkpoint)
    assert "inside the checkpoint folder" in str(report.problems[0]) and not report.parts


def test_links_inside_the_folder_and_to_the_folder_are_fine(checkpoint, tmp_path):
    (checkpoint / BERT).rename(checkpoint / "text_encoder/one.safetensors")
    (checkpoint / BERT).symlink_to("one.safetensors")
    (tmp_path / "by another name").symlink_to(checkpoint)
    load_model(tmp_path / "by another name", device="cpu")


def test_a_link_that_leads_nowhere_is_a_missing_file(checkpoint):
    (checkpoint / BERT).unlink()
    (checkpoint / BERT).symlink_to("gone.safetensors")
    assert "text_encoder/model.safetensors" in refusal(checkpoint)
    assert "missing" in refusal(checkpoint)


def test_an_index_cannot_lead_out_of_the_folder_either(checkpoint, tmp_path):
    (checkpoint / BERT).rename(tmp_path / "outside.safetensors")
    (checkpoint / f"{BERT}.index.json").write_text('{"weight_map": {"a": "../../outside.safetensors"}}')
    assert "text_encoder/outside.safetensors" in refusal(checkpoint)
