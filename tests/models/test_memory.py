"""What loading costs: bytes read from the disk, and memory of the process, counted by the kernel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from safetensors.torch import load_file, save_file

from tuner.demo.checkpoint import write_weights
from tuner.models.load import load_model

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")

LOAD = """
import ctypes, gc, json, sys
from tuner.models.load import load_model
from tuner.settings import Settings

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))

def read():
    return int(open("/proc/self/io").readline().split()[1])

small, folder, *precisions = sys.argv[1:]
for precision in precisions:
    settings = Settings(precision=precision)
    load_model(small, settings, device="cpu")  # what is imported on the way is no model
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    before, began = status("VmRSS"), read()
    held = load_model(folder, settings, device="cpu")
    print(json.dumps({"peak": status("VmHWM") - before, "read": read() - began}))
    del held
"""
MIB = 1024**2


@pytest.fixture(scope="module")
def large(demo, tmp_path_factory) -> Path:
    """The demo with a transformer of about 300 MB, in bfloat16."""
    folder = Path(shutil.copytree(demo, tmp_path_factory.mktemp("large") / "large"))
    config = json.loads((folder / "transformer/config.json").read_text())
    config |= {"num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 8, "mmdit_layers": 2}
    (folder / "transformer/config.json").write_text(json.dumps(config))
    kept = {key: value for key, value in config.items() if key not in ("ref_channels", "clip_channels")}
    kept = {key: value for key, value in kept.items() if not key.startswith(("_", "enable_clip"))}
    write_weights(folder / "transformer", EasyAnimateTransformer3DModel(**kept))
    return folder


def bytes_read() -> int:
    """By this process so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def costs(large: Path, demo: Path) -> dict[str, dict[str, Any]]:
    """By the precision that the checkpoint is loaded in; its own is bfloat16."""
    precisions = "bfloat16", "float32"
    command = [sys.executable, "-c", LOAD, str(demo), str(large), *precisions]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(precisions, map(json.loads, done.stdout.splitlines()), strict=True))


def test_loading_takes_the_checkpoints_size_in_memory_and_reads_each_byte_once(costs, large):
    size, cost = size_of(large), costs["bfloat16"]
    assert size > 250_000_000
    assert 0.95 * size < cost["peak"] < 1.1 * size
    assert size <= cost["read"] < 1.02 * size


def test_another_dtype_takes_no_more_than_the_weights_themselves(costs, large):
    size, cost = size_of(large), costs["float32"]
    assert 0.95 * 2 * size < cost["peak"] < 1.1 * 2 * size
    assert cost["read"] < 1.02 * size


def test_of_qwen_only_what_is_needed_is_read(checkpoint_v51, tiny_v51):
    """The vision tower, the head and the last layer are made large here: only their names are ever looked at."""
    needed = 0
    for file in checkpoint_v51.rglob("*.safetensors"):
        held = load_file(file)
        spare = [name for name in held if re.match(r"visual\.|lm_head\.|model\.norm\.|model\.layers\.2\.", name)]
        needed += sum(tensor.nbytes for name, tensor in held.items() if name not in spare)
        save_file({**held, **{name: torch.zeros(MIB // 4) for name in spare}}, file)
    assert size_of(checkpoint_v51) > needed + 32 * MIB
    load_model(tiny_v51, device="cpu")  # what is imported on the way is no model
    began = bytes_read()
    load_model(checkpoint_v51, device="cpu")
    assert needed <= bytes_read() - began < needed + MIB
