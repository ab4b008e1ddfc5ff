"""On what a benchmark was measured: enough to compare two results, nothing that names the computer."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import torch

import tuner


class Machine(TypedDict):
    """The hardware; ``gpu`` is empty where the CPU computes."""

    cpu: str
    cores: int
    gpu: str


class Versions(TypedDict):
    """The software."""

    python: str
    torch: str
    diffusers: str
    tuner: str


class Others:
    """How busy other programs keep the machine while a benchmark runs: seconds taken beside them are too many.

    Used as a context; ``cores`` is the mean number of cores they used, known when it ends.
    """

    cores = 0.0

    def __enter__(self) -> Self:
        self._own, self._all, self._began = _own_seconds(), _all_seconds(), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        others = (_all_seconds() - self._all) - (_own_seconds() - self._own)
        self.cores = round(max(0.0, others / seconds), 2)


def this_machine(device: torch.device) -> Machine:
    """The machine, and the card when ``device`` is one."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"cpu": _cpu_name(Path("/proc/cpuinfo")), "cores": os.cpu_count() or 1, "gpu": gpu}


def these_versions() -> Versions:
    """Versions of what decides speed and memory."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "diffusers": version("diffusers"),
        "tuner": tuner.__version__,
    }


def today() -> str:
    """The date, UTC, as ``2026-01-31``."""
    return datetime.now(UTC).date().isoformat()


def _own_seconds() -> float:
    import psutil  # only in these two: what else is here works without it

    times = psutil.Process().cpu_times()
    return times.user + times.system


def _all_seconds() -> float:
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def _cpu_name(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
