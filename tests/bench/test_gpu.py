"""The benchmark of a card, kept running by tiny models where there is none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tuner.bench import gpu
from tuner.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
NOT_NEEDED = ("av", "gradio", "platformdirs", "plotly", "psutil", "pynvml", "pytest", "tomlkit", "typer")
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({NOT_NEEDED!r}))  # importing one of them fails as if it were not installed
runpy.run_module("tuner.bench.gpu", run_name="__main__")
"""


def bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BARE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "gpu.json"
    finished = bare("--device", "cpu", "--tiny", "--out", str(out))
    assert finished.returncode == 0, finished.stderr
    return json.loads(out.read_text()), finished.stdout, out.with_suffix(".md").read_text()


def test_it_runs_from_a_bare_checkout(done):
    result, stdout, table = done
    assert json.loads(stdout.splitlines()[-1])["rows"] == result["rows"]
    assert table in stdout
    assert {row["part"] for row in result["rows"]} == {"equality", "denoise", "decode", "leak"}
    assert {row["status"] for row in result["rows"]} == {"done"}


def test_the_bars_that_a_cpu_can_show_are_reached(done):
    met = {bar["name"]: bar["met"] for bar in done[0]["bars"]}
    assert met["difference in float32, relative"]
    assert met["bytes to the device per resident step"]
    assert met["decoded clip against stock, dB"]


def test_each_row_says_how_far_its_forecast_was_off(done):
    result, stdout, _ = done
    rows = [row for row in result["rows"] if row["part"] in ("denoise", "decode")]
    for row in rows:
        assert abs(row["forecast"]["error"]["peak_allocated_bytes"]) <= 0.02, (row["part"], row["way"])
        assert row["forecast"]["error"]["seconds"] == row["forecast"]["seconds"] / row["seconds"] - 1
    assert len(re.findall(r"[+-]0\.\d%, [+-]\d+\.\d%", stdout)) == len(rows)


def test_the_card_is_described_but_not_the_computer(done):
    result = done[0]
    assert set(result["card"]) == {"name", "driver", "cuda", "capability", "total_bytes", "limit_bytes"}
    assert str(ROOT) not in json.dumps(result)


def test_what_the_time_does_not_allow_is_written_as_not_reached(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.run(device="cpu", tiny=True, minutes=0, out=out)
    rows = json.loads(out.read_text())["rows"]
    assert {row["status"] for row in rows if row["part"] != "equality"} == {"not reached"}
    assert "not reached" in capsys.readouterr().out


def test_each_row_is_written_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    add = gpu.Report.add

    def add_two(report: gpu.Report, row: dict) -> None:
        add(report, row)
        if len(report.rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(gpu.Report, "add", add_two)
    with pytest.raises(KeyboardInterrupt):
        gpu.run(device="cpu", tiny=True, out=out)
    assert len(json.loads(out.read_text())["rows"]) == 2


@pytest.mark.parametrize("arguments", [(), ("--device", "cpu"), ("--device", "cuda:99"), ("--device", "tpu")])
def test_without_a_card_one_line_says_how_to_try_it(arguments, capsys):
    if not arguments and torch.cuda.is_available():
        pytest.skip("there is a card")
    assert gpu.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --device")
    assert "--tiny" in line


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--out"):
        gpu.run(device="cpu", tiny=True, out=tmp_path)
