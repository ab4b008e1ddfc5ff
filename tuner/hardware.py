"""The cards a forecast can be asked for: what they hold, how fast they are, and what they cannot do.

Arithmetic is dense, with float32 accumulation, from the makers' data sheets; ``memory_bytes`` is what PyTorch
reports as a card's total, which is less than the number it is sold by.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tuner.errors import BadInput
from tuner.settings import GIB

MIB = 1024**2
_TERA, _GIGA = 10**12, 10**9
_PCIE_LANE_BYTES_PER_SECOND = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9}
_CONTEXT_BYTES = 450 * MIB
_CUBLAS_BYTES, _CUBLAS_HOPPER_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024, 32 * MIB


@dataclass(frozen=True)
class Card:
    """One GPU, or the CPU.

    Attributes:
        name: What ``--gpu`` takes.
        title: As its maker calls it.
        memory_bytes: Total device memory as PyTorch reports it; None where the host's memory is used.
        context_bytes: Taken by the CUDA context and its loaded kernels, outside PyTorch's allocator.
        workspace_bytes: Kept by cuBLAS inside PyTorch's allocator once the first product has run.
        rates: Dense arithmetic per second by precision; a precision that is missing cannot be computed in.
        bandwidth: Bytes per second of device memory.
        transfer: Bytes per second between host and device, one way.
        source: Where these figures are from.
        reach: What programs were measured to get of ``rates`` by kind of work, and of ``bandwidth`` as ``other``,
            where that is known better than for cards at large.
    """

    name: str
    title: str
    memory_bytes: int | None
    context_bytes: int
    workspace_bytes: int
    rates: Mapping[str, float]
    bandwidth: float
    transfer: float
    source: str
    reach: Mapping[str, float] = field(default_factory=dict)

    @property
    def usable_bytes(self) -> int | None:
        """What PyTorch's allocator can have; None where there is no limit of its own."""
        return None if self.memory_bytes is None else self.memory_bytes - self.context_bytes

    @property
    def is_cpu(self) -> bool:
        """Whether host and device are the same memory."""
        return self.memory_bytes is None

    def with_memory(self, memory_bytes: int | None) -> Card:
        """The same card with another amount of memory; None leaves it.

        Raises:
            BadInput: That would not even hold the CUDA context, or the card has no memory of its own.
        """
        if memory_bytes is None:
            return self
        if self.is_cpu or memory_bytes <= self.context_bytes:
            least = f"more than {self.context_bytes / GIB:.2f} GiB, on a card with memory of its own"
            raise BadInput("memory", f"{memory_bytes / GIB:g} GiB", least)
        return replace(self, memory_bytes=memory_bytes)

    @property
    def best_precision(self) -> str:
        """What ``precision = auto`` takes on it."""
        if self.is_cpu:
            return "float32"
        return "bfloat16" if "bfloat16" in self.rates else "float16"

    def check_precision(self, precision: str) -> str:
        """The precision to compute in.

        Raises:
            BadInput: The card cannot compute in it.
        """
        if precision == "auto":
            return self.best_precision
        if precision not in self.rates:
            able = " or ".join(name for name in ("float16", "float32") if name in self.rates)
            raise BadInput("precision", precision, f"{able} on {self.title}, which has no {precision} arithmetic")
        return precision


def _card(
    name: str,
    title: str,
    memory_gib: float,
    bandwidth_gb: float,
    rates: dict[str, float],
    *,
    pcie: int = 4,
    lanes: int = 16,
    source: str,
) -> Card:
    return Card(
        name=name,
        title=title,
        memory_bytes=int(memory_gib * GIB),
        context_bytes=_CONTEXT_BYTES,
        workspace_bytes=_CUBLAS_HOPPER_BYTES if name.startswith("h") else _CUBLAS_BYTES,
        rates=MappingProxyType({precision: rate * _TERA for precision, rate in rates.items()}),
        bandwidth=bandwidth_gb * _GIGA,
        transfer=_PCIE_LANE_BYTES_PER_SECOND[pcie] * lanes,
        source=source,
    )


def _rates(
    half: float, single: float, int8: float, fp8: float | None = None, bf16: bool = True
) -> dict[str, float]:
    """Rates by precision, in tera-operations per second."""
    rates = {"float32": single, "float16": half, "int8": int8}
    if bf16:
        rates["bfloat16"] = half
    if fp8:
        rates["float8"] = fp8
    return rates


_AMPERE = "NVIDIA Ampere GA102 architecture whitepaper and the card's product page"
_ADA = "NVIDIA Ada GPU architecture whitepaper and the card's product page"

CARDS: Mapping[str, Card] = MappingProxyType(
    {
        card.name: card
        for card in (
            _card("a10", "NVIDIA A10", 22.06, 600, _rates(125, 31.2, 250), source="NVIDIA A10 data sheet"),
            _card("l4", "NVIDIA L4", 21.96, 300, _rates(121, 30.3, 242, 242), source="NVIDIA L4 data sheet"),
            _card(
                *("t4", "NVIDIA T4", 14.56, 320),
                _rates(65, 8.1, 130, bf16=False),
                pcie=3,
                source="NVIDIA T4 data sheet",
            ),
            _card("rtx3060-12gb", "GeForce RTX 3060 12 GB", 11.63, 360, _rates(25.4, 12.7, 102), source=_AMPERE),
            _card("rtx3090", "GeForce RTX 3090", 23.56, 936, _rates(71, 35.6, 284), source=_AMPERE),
            _card(
                *("rtx4060ti-16gb", "GeForce RTX 4060 Ti 16 GB", 15.58, 288),
                _rates(44.1, 22.1, 176.5, 88.2),
                lanes=8,
                source=_ADA,
            ),
            _card("rtx4090", "GeForce RTX 4090", 23.52, 1008, _rates(165.2, 82.6, 660.6, 330.3), source=_ADA),
            _card(
                *("v100-16gb", "NVIDIA V100 SXM2 16 GB", 15.77, 900),
                _rates(125, 15.7, 62.8, bf16=False),
                pcie=3,
                source="NVIDIA V100 data sheet",
            ),
            _card(
                "a100-40gb",
                "NVIDIA A100 40 GB",
                39.39,
                1555,
                _rates(312, 19.5, 624),
                source="NVIDIA A100 data sheet",
            ),
            _card(
                "a100-80gb",
                "NVIDIA A100 80 GB",
                79.14,
                2039,
                _rates(312, 19.5, 624),
                source="NVIDIA A100 data sheet",
            ),
            _card("l40s", "NVIDIA L40S", 44.39, 864, _rates(362, 91.6, 733, 733), source="NVIDIA L40S data sheet"),
            _card(
                *("h100", "NVIDIA H100 SXM 80 GB", 79.10, 3350),
                _rates(989.4, 66.9, 1978.9, 1978.9),
                pcie=5,
                source="NVIDIA H100 data sheet",
            ),
            _card(
                *("h200", "NVIDIA H200 SXM 141 GB", 139.72, 4800),
                _rates(989.4, 66.9, 1978.9, 1978.9),
                pcie=5,
                source="NVIDIA H200 data sheet",
            ),
            Card(
                name="cpu",
                title="This computer's CPU",
                memory_bytes=None,
                context_bytes=0,
                workspace_bytes=0,
                # float16 has no kernels of its own there.
                rates=MappingProxyType({"float32": 345 * _GIGA, "bfloat16": 800 * _GIGA, "float16": 1.6 * _GIGA}),
                bandwidth=45 * _GIGA,
                transfer=22 * _GIGA,
                source="two cores of an AMD EPYC with AVX-512: products, convolutions and copies, timed",
                reach=MappingProxyType(
                    {"matmul": 0.41, "attention": 0.42, "convolution": 0.71, "small convolution3d": 0.106}
                ),
            ),
        )
    }
)
"""Every card by its name."""


_SAME_MEMORY = 0.15
"""Cards of one name come with half or twice the memory; drivers keep a few per cent of it."""


def card_named(name: str, memory_bytes: int) -> Card | None:
    """The card that a driver calls ``name``; None when the table does not have it.

    Args:
        name: Such as ``NVIDIA GeForce RTX 4060 Ti`` or ``Tesla V100-SXM2-16GB``.
        memory_bytes: What the driver says it has.
    """
    words = re.split(r"[\s-]+", re.sub(r"(?<=\d) (?=ti\b)|(?<=rtx) ", "", name.lower()))
    for card in CARDS.values():
        named = card.name.split("-")[0] in words
        if named and card.memory_bytes and abs(memory_bytes / card.memory_bytes - 1) < _SAME_MEMORY:
            return card
    return None


def find_card(name: str) -> Card:
    """The card of that name.

    Raises:
        BadInput: There is none; the message offers the closest names.
    """
    found = CARDS.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), CARDS, n=3, cutoff=0.4) or list(CARDS)
        raise BadInput("gpu", name, " or ".join(close))
    return found
