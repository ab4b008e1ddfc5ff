"""On which card a benchmark ran, and with what."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TypedDict

import torch

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


class Card(TypedDict):
    """A CUDA card; a CPU that stands in for one has a name and nothing else."""

    name: str
    driver: str
    cuda: str
    capability: str
    total_bytes: int
    limit_bytes: int | None


def this_card(device: torch.device, limit_bytes: int | None) -> Card:
    """The card, and what of it may be used."""
    if device.type != "cuda":
        return _card("CPU (tried out, not measured)", limit_bytes)
    properties = torch.cuda.get_device_properties(device)
    return {
        **_card(properties.name, limit_bytes),
        "driver": _driver(),
        "cuda": torch.version.cuda or "",
        "capability": f"{properties.major}.{properties.minor}",
        "total_bytes": properties.total_memory,
    }


def cap_memory(device: torch.device, limit_bytes: int) -> None:
    """Let PyTorch's allocator take no more than ``limit_bytes``, as on a smaller card."""
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, limit_bytes / torch.cuda.get_device_properties(device).total_memory), device
    )


def _card(name: str, limit_bytes: int | None) -> Card:
    return {
        "name": name,
        "driver": "",
        "cuda": "",
        "capability": "",
        "total_bytes": 0,
        "limit_bytes": limit_bytes,
    }


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool:
        asked = subprocess.run(
            [tool, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.split()[0]
    return _DRIVER_FILE.read_text(encoding="utf-8").splitlines()[0] if _DRIVER_FILE.is_file() else ""
