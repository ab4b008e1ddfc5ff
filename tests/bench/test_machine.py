from __future__ import annotations

import platform
import subprocess
import sys

import torch

from tuner.bench.machine import Others, these_versions, this_machine, today


def test_the_computer_is_described_but_not_named():
    machine = this_machine(torch.device("cpu"))
    assert machine["cpu"]
    assert machine["gpu"] == ""
    assert set(machine) == {"cpu", "cores", "gpu"}


def test_versions_are_those_that_run():
    assert these_versions()["torch"] == torch.__version__
    assert these_versions()["python"] == platform.python_version()


def test_a_date_has_no_clock_time():
    assert len(today()) == len("2026-01-31")


def test_what_other_programs_use_is_seen():
    busy = "import time; end = time.time() + 1\nwhile time.time() < end: pass"
    with Others() as others:
        subprocess.run([sys.executable, "-c", busy], check=True)
    assert others.cores > 0.3
