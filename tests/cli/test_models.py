from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.demo_sizes import WIDTH
from tuner.models.registry import find_model
from tuner.presets import read_preset

TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")
VAE = Path("vae/diffusion_pytorch_model.safetensors")


@pytest.fixture(autouse=True)
def empty_models_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNER_MODELS", str(tmp_path / "none"))  # restored, whatever --models-dir makes of it


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_model("demo").folder(), tmp_path / "copy"))


def test_check_prints_parameters_and_bytes_of_each_part(tuner: Callable, checkpoint: Path) -> None:
    done = tuner("models", "check", checkpoint)
    assert done.code == 0
    count = sum(tensor.numel() for tensor in load_file(checkpoint / TRANSFORMER).values())
    for words in ("EasyAnimateV5", f"{count:,} parameters", f"{2 * count:,} bytes", "BF16", "fine"):
        assert words in done.out


def test_check_exits_2_and_names_what_is_wrong(tuner: Callable, checkpoint: Path) -> None:
    held = load_file(checkpoint / VAE)
    held["quant_conv.bias"] = torch.zeros(3)
    save_file({**held, "extra": torch.zeros(1)}, checkpoint / VAE)
    done = tuner("models", "check", checkpoint, "--json")
    assert done.code == 2 and not done.json["ok"]
    assert len(done.json["problems"]) == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert any("tensor quant_conv.bias" in problem for problem in done.json["problems"])
    assert {part["name"] for part in done.json["parts"]} >= {"transformer", "vae"}
    assert "also: " in tuner("models", "check", checkpoint).out


def test_convert_writes_once(tuner: Callable, checkpoint: Path, tmp_path: Path) -> None:
    done = tuner("models", "convert", checkpoint, tmp_path / "new", "--json")
    assert done.code == 0 and done.json["path"] == str(tmp_path / "new")
    assert tuner("models", "check", tmp_path / "new").code == 0
    again = tuner("models", "convert", checkpoint, tmp_path / "new")
    assert again.code == 2 and "nothing is overwritten" in again.err


def test_a_pickle_is_converted_when_it_is_trusted(tuner: Callable, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(load_file(checkpoint / VAE), (checkpoint / VAE).with_suffix(".bin"))
    (checkpoint / VAE).unlink()
    assert tuner("models", "convert", checkpoint, tmp_path / "new").code == 2
    assert tuner("models", "convert", checkpoint, tmp_path / "new", "--allow-pickle").code == 0
    assert (tmp_path / "new" / VAE).is_file()


@pytest.mark.parametrize("command", [("models", "list", "--json"), ("models", "check", "easyanimate-v5-7b-inp")])
def test_models_dir_says_where_to_look(tuner: Callable, tmp_path: Path, command: tuple[str, ...]) -> None:
    place = tmp_path / "models"
    shutil.copytree(find_model("demo").folder(), place / "EasyAnimateV5-7b-zh-InP")
    done = tuner(*command, "--models-dir", place)
    assert done.code == 0
    assert str(place / "EasyAnimateV5-7b-zh-InP") in done.out
    assert os.environ["TUNER_MODELS"] == str(place)  # for the worker that the page starts


def test_a_models_dir_that_is_not_there_is_refused(tuner: Callable, tmp_path: Path) -> None:
    done = tuner("models", "list", "--models-dir", tmp_path / "gone")
    assert done.code == 2 and "--models-dir" in done.err


def test_downloading_offline_says_what_to_put_where(tuner: Callable) -> None:
    done = tuner("models", "download", "easyanimate-v5.1-12b-inp")
    assert done.code == 2
    for words in ("39 GB", "alibaba-pai/EasyAnimateV5.1-12b-zh-InP", "TUNER_MODELS"):
        assert words in done.err
    assert tuner("run", "--model", "easyanimate-v5.1-12b-inp").err == done.err


def write_lora(file: Path) -> Path:
    torch.manual_seed(0)
    layer = "lora_unet__transformer_blocks_0_attn1_to_v"
    save_file(
        {f"{layer}.lora_down.weight": torch.randn(4, WIDTH), f"{layer}.lora_up.weight": torch.randn(WIDTH, 4)},
        file,
    )
    return file


def pictures(clip: Path) -> bytes:
    with av.open(str(clip)) as container:
        return b"".join(frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0))


def test_a_clip_lists_its_loras_and_is_made_again_from_itself(tuner: Callable, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "style.safetensors")
    small = ("--width", 32, "--height", 32, "--frames", 5, "--steps", 1, "--json", "--quiet")
    first = tuner("run", *small, "--lora", f"{lora}=0.5", "--out", tmp_path / "first").json["video"]
    assert read_preset(first).loras == {str(lora): 0.5}
    again = tuner("run", "--json", "--quiet", "--preset", first, "--out", tmp_path / "again").json["video"]
    assert pictures(Path(again)) == pictures(Path(first))
    lora.unlink()
    assert tuner("run", "--preset", first).code == 2


def test_a_lora_changes_the_clip_by_its_weight(tuner: Callable, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "style.safetensors")
    small = ("--width", 32, "--height", 32, "--frames", 5, "--steps", 1, "--json", "--quiet")
    clips = {}
    for name, options in {"plain": [], "none": [f"{lora}=0"], "half": [f"{lora}=0.5"], "whole": [lora]}.items():
        done = tuner(
            "run", *small, "--out", tmp_path / name, *(part for file in options for part in ("--lora", file))
        )
        assert done.code == 0
        clips[name] = pictures(Path(done.json["video"]))
    assert clips["plain"] == clips["none"]
    assert len({clips["plain"], clips["half"], clips["whole"]}) == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [("gone.safetensors", "gone.safetensors"), ("{}=much", "much"), ("{}=nan", "nan"), ("{}=", "--lora")],
)
def test_a_lora_that_cannot_be_is_one_line_and_exit_2(
    tuner: Callable, tmp_path: Path, given: str, named: str
) -> None:
    done = tuner("run", "--lora", given.format(write_lora(tmp_path / "style.safetensors")))
    assert done.code == 2 and done.err.count("\n") == 1
    assert named in done.err


def test_a_lora_of_another_model_is_refused_by_its_key(tuner: Callable, tmp_path: Path) -> None:
    key = "lora_unet__transformer_blocks_40_attn1_to_v.lora_down.weight"
    save_file({key: torch.zeros(4, 3072)}, tmp_path / "other.safetensors")
    done = tuner("run", "--lora", tmp_path / "other.safetensors", "--out", tmp_path / "out", "--quiet", "--json")
    assert done.code == 2 and key in done.err
    assert json.loads(done.out.splitlines()[-1])["status"] == "failed"
