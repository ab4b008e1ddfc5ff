"""A forecast in a process that may open no connection, no weights and no card."""

from __future__ import annotations

import json
import subprocess
import sys

ALONE = '''
import json, sys

seen = []
KEPT_FROM = (".safetensors", ".bin", ".pt", ".ckpt")

def reads_a_header():
    """The list of models takes the number of parameters from the first bytes of a file; no tensor is read."""
    frame = sys._getframe(2)
    while frame and frame.f_code.co_name != "read_header":
        frame = frame.f_back
    return frame is not None

def watch(event, arguments):
    name = str(arguments[0]) if arguments else ""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        seen.append(event)
    if event == "open" and not reads_a_header() and (name.endswith(KEPT_FROM) or name.startswith("/dev/nvidia")):
        seen.append(name)

sys.addaudithook(watch)

import torch

torch.set_num_threads(1)
from tuner.forecast.forecast import Forecaster
from tuner.request import Request
from tuner.settings import Settings

request = Request(width=1024, height=1024, frames=49, steps=25, start_image="not opened.png")
for model in sys.argv[1:]:
    answer = Forecaster().forecast(request, Settings(batch_size=1), model=model, gpu="a10")
    assert not torch.cuda.is_initialized()
    with open("/proc/self/status") as status:  # what getrusage tells begins with the process that started this one
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"seen": seen, "gib": kib / 2**20, "peak": answer.peak_allocated_bytes}))
'''


def test_no_connection_no_weights_no_card_and_little_memory() -> None:
    models = "demo", "easyanimate-v5-7b-inp"
    done = subprocess.run([sys.executable, "-c", ALONE, *models], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for model, line in zip(models, done.stdout.splitlines(), strict=True):
        told = json.loads(line)
        print(f"{model}: {told['gib']:.2f} GiB of this computer's memory")
        assert told["seen"] == []
        assert told["gib"] < 1.5
        assert told["peak"] > 0
