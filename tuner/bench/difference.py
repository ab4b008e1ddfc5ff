"""How far one output is from another."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

_EQUAL_DB = 200.0


@dataclass(frozen=True)
class Difference:
    """Of an output from the one it should equal.

    Attributes:
        largest: Largest absolute difference.
        relative: The same / the largest absolute value of the reference.
        psnr_db: Peak signal-to-noise ratio of clips, as :func:`psnr` has it; None where they are no clips.
    """

    largest: float
    relative: float
    psnr_db: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """As part of a result; null for what is not finite."""
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in asdict(self).items()
        }


def difference(output: Tensor, reference: Tensor, clips: bool = False) -> Difference:
    """How far ``output`` is from ``reference``, both of one shape; of ``clips`` also in dB."""
    largest = (output - reference).abs().max().item()
    return Difference(
        largest,
        largest / max(reference.abs().max().item(), torch.finfo(torch.float32).tiny),
        psnr(output, reference) if clips else None,
    )


def psnr(frames: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of decoded frames in -1..1, clamped as a clip shows them.

    Equal ones have 200 dB, more than float32 could tell apart.
    """
    shown, wanted = (((each / 2) + 0.5).clamp(0, 1) for each in (frames, reference))
    error = functional.mse_loss(shown, wanted).item()
    return -10 * math.log10(error) if error else _EQUAL_DB
