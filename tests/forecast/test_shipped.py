from __future__ import annotations

import pytest

from tuner.forecast.shipped import MEMORIES, file_name, preset_text
from tuner.forecast.table import SIZES
from tuner.presets import SHIPPED, shipped_presets


def test_there_is_a_preset_for_every_published_size_and_memory():
    wanted = {file_name(size, memory) for size in SIZES for memory in MEMORIES}
    assert {path.name for path in shipped_presets()} == {*wanted, "demo-cpu.toml"}


@pytest.mark.parametrize(
    ("size", "memory"), [(size, MEMORIES[number % len(MEMORIES)]) for number, size in enumerate(SIZES)], ids=str
)
def test_a_shipped_preset_is_what_would_be_found_now(forecaster, size, memory):
    file = SHIPPED / file_name(size, memory)
    found = preset_text(size, memory, forecaster)
    assert file.read_text(encoding="utf-8") == found, "run `tuner forecast presets`"
