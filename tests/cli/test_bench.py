from __future__ import annotations

import json

import pytest
import torch

TINY = ("--width", 32, "--height", 32, "--frames", 5)


def test_a_benchmark_ends_with_one_line_of_json(tuner):
    lines = tuner("bench", "vae", *TINY, "--rounds", 1).out.splitlines()
    assert lines[0].startswith("| way")
    assert json.loads(lines[-1])["bench"] == "vae"


def test_only_the_json_if_so_asked(tuner):
    (line,) = tuner("bench", "transformer", *TINY, "--rounds", 1, "--json").out.splitlines()
    assert json.loads(line)["bench"] == "transformer"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_the_benchmark_of_a_card_needs_one(tuner):
    done = tuner("bench", "gpu")
    assert done.code == 2
    assert done.err.startswith("error: --device")
    assert "--tiny" in done.err
