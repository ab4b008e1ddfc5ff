from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.models.tiny_v51 import write_tiny_v51
from tuner.models.registry import find_model


@pytest.fixture(scope="session")
def demo() -> Path:
    return find_model("demo").folder()


@pytest.fixture
def checkpoint(demo: Path, tmp_path: Path) -> Path:
    """A copy of the demo that a test may damage."""
    return Path(shutil.copytree(demo, tmp_path / "copy"))


@pytest.fixture(scope="session")
def tiny_v51(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V5.1 checkpoint that no test changes."""
    return write_tiny_v51(tmp_path_factory.mktemp("tiny") / "v51")


@pytest.fixture
def checkpoint_v51(tiny_v51: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(tiny_v51, tmp_path / "v51"))
