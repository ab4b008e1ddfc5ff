from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tuner.demo.recipe import TINY
from tuner.demo.train import train_demo
from tuner.models.registry import find_model


@pytest.fixture(scope="session")
def demo() -> Path:
    return find_model("demo").folder()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder whose ``work`` and ``model`` come of one uninterrupted training of a few steps."""
    folder = tmp_path_factory.mktemp("training")
    train_demo(folder / "work", folder / "model", TINY, torch.device("cpu"))
    return folder
