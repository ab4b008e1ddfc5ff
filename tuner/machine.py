"""What this machine computes with, found without importing torch: the page must be there at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import psutil
import pynvml

from tuner.errors import BadInput
from tuner.hardware import CARDS, Card, card_named
from tuner.settings import GIB, Settings


@dataclass(frozen=True)
class Machine:
    """Where a run would compute.

    Attributes:
        device: Kind of device.
        name: The card's name, or ``CPU``.
        memory_bytes: Memory of that device; on a CPU the computer's own.
    """

    device: Literal["cuda", "cpu"]
    name: str
    memory_bytes: int


def this_machine() -> Machine:
    """The first NVIDIA card when torch was built to use one, else the CPU."""
    if not version("torch").endswith("+cpu") and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        card = _first_card()
        if card is not None:
            return card
    return Machine("cpu", "CPU", psutil.virtual_memory().total)


def _first_card() -> Machine | None:
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            name = pynvml.nvmlDeviceGetName(handle)
            total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return Machine("cuda", name if isinstance(name, str) else name.decode(), total)


def card_of(machine: Machine) -> Card | None:
    """What :mod:`tuner.hardware` knows of this machine's card; None when it does not know it.

    Args:
        machine: From :func:`this_machine`; a card's name there is the driver's, such as
            ``NVIDIA GeForce RTX 4060 Ti`` or ``Tesla V100-SXM2-16GB``.
    """
    if machine.device == "cpu":
        return CARDS["cpu"]
    return card_named(machine.name, machine.memory_bytes)


def check_capacity(settings: Settings, machine: Machine | None = None) -> None:
    """Refuse caches larger than the memory there is; the default stands for as much as fits, on any card.

    Args:
        settings: The knobs; the stock engine has no caches.
        machine: Where the run would compute; None takes this one.

    Raises:
        BadInput: ``cache_capacity`` is more than the card, or the computer without one, has.
    """
    if settings.engine == "stock" or settings.cache_capacity == Settings.model_fields["cache_capacity"].default:
        return
    machine = machine or this_machine()
    if settings.cache_bytes > machine.memory_bytes:
        where = "card" if machine.device == "cuda" else "computer"
        allowed = f"0 to {machine.memory_bytes / GIB:.1f} GiB on this {where}"
        raise BadInput("cache_capacity", settings.cache_capacity, allowed)
