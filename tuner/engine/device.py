"""What a device is and has. Apart from placement, so that the runners need nothing that reads a machine."""

from __future__ import annotations

import psutil
import torch

from tuner.machine import Machine
from tuner.pressure import free_host_bytes


def free_bytes(device: torch.device) -> int:
    """Memory that is free where ``device`` computes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_bytes()


def machine_of(device: torch.device) -> Machine:
    """The card, or the computer, that ``device`` is."""
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return Machine("cuda", card.name, card.total_memory)
    return Machine("cpu", "CPU", psutil.virtual_memory().total)
