"""What happened on a card, in order: the record from which memory and time are forecast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

from tuner.meter.events import Direction, Stage

Work = Literal["matmul", "convolution", "small convolution3d", "attention", "other"]
Lane = Literal["compute", "copy"]


class Born(NamedTuple):
    """A storage was made on the card.

    Attributes:
        storage: Its number.
        bytes: Its size.
        holds_weights: Whether it was made from weights alone.
    """

    storage: int
    bytes: int
    holds_weights: bool = False


class Filled(NamedTuple):
    """Weights were copied into a storage that had been made empty."""

    storage: int


class Remembered(NamedTuple):
    """The frames that the VAE remembers on the card take ``bytes`` more; fewer, when negative."""

    bytes: int


class Died(NamedTuple):
    """The last tensor of a storage is gone."""

    storage: int
    bytes: int


class Ran(NamedTuple):
    """An operation ran on the card.

    Attributes:
        name: As PyTorch calls it.
        work: What bounds it.
        dtype: What it computes in.
        flops: Multiplications and additions.
        bytes: Read and written.
    """

    name: str
    work: Work
    dtype: torch.dtype
    flops: int
    bytes: int


class Copied(NamedTuple):
    """Bytes moved between host and card.

    Attributes:
        direction: Which way.
        bytes: How many.
        lane: What is busy with it.
    """

    direction: Direction
    bytes: int
    lane: Lane = "compute"


class Counted(NamedTuple):
    """The engine counted a transfer of its own."""

    direction: Direction
    bytes: int


class Recorded(NamedTuple):
    """``event`` is where ``lane`` has come to."""

    event: int
    lane: Lane


class Waited(NamedTuple):
    """``lane`` goes on when ``event`` has come."""

    event: int
    lane: Lane


class Began(NamedTuple):
    """A stage began; the one before it has ended."""

    stage: Stage


class Stepped(NamedTuple):
    """A denoising step ended: ``step``, 1 for the first, ``of`` those that were rehearsed."""

    step: int
    of: int


class Repeated(NamedTuple):
    """Everything in ``segment`` happened once more; it left nothing behind."""

    segment: Segment


Entry = Born | Filled | Remembered | Died | Ran | Copied | Counted | Recorded | Waited | Began | Stepped | Repeated


@dataclass(eq=False)
class Segment:
    """A part of the trace that changes tensors in place and frees all it makes.

    Attributes:
        entries: What happens in it.
        peak_bytes: Bytes it holds at most above those held when it begins.
    """

    entries: list[Entry] = field(default_factory=list)
    peak_bytes: int = 0
