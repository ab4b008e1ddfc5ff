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

from tuner.models.demo import write_weights

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")

LOAD = """
import ctypes, gc, json, sys
from tuner.models.load import load_model
from tuner.settings import Settings

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key + ":"))

def read():
    return int(open("/proc/self/io").readline().split()[1])

settings = Settings(precision=sys.argv[2])
load_model(sys.argv[3], settings, device="cpu")  # what is imported on the way is no model
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before, began = status("VmRSS"), read()
held = load_model(sys.argv[1], settings, device="cpu")
print(json.dumps({"peak": status("VmHWM") - before, "now": status("VmRSS") - before, "read": read() - began}))
"""
MIB = 1024**2


def loaded(folder: Path, precision: str, small: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), precision, str(small)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


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


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def test_loading_takes_the_checkpoints_size_in_memory_and_reads_each_byte_once(large, demo):
    size = size_of(large)
    assert size > 250_000_000
    cost = loaded(large, "bfloat16", demo)
    assert 0.95 * size < cost["peak"] < 1.1 * size
    assert size <= cost["read"] < 1.02 * size


def test_another_dtype_takes_no_more_than_the_weights_themselves(large, demo):
    size = size_of(large)
    cost = loaded(large, "float32", demo)
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
    cost = loaded(checkpoint_v51, "float32", tiny_v51)
    assert needed <= cost["read"] < needed + MIB
