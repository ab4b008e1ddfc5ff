from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tuner.models.registry import find_model


@pytest.fixture(scope="session")
def demo() -> Path:
    return find_model("demo").folder()


@pytest.fixture
def checkpoint(demo: Path, tmp_path: Path) -> Path:
    """A copy of the demo that a test may damage."""
    return Path(shutil.copytree(demo, tmp_path / "copy"))
