from __future__ import annotations

import json

import pytest

from tuner.forecast import table
from tuner.reference import BENCHMARKS


def test_every_size_and_memory_has_its_minutes_or_a_cross(monkeypatch, forecaster):
    monkeypatch.setattr(table, "SIZES", ((672, 384, 25),))
    found = table.cells("easyanimate-v5-7b-inp", forecaster)
    assert [cell.memory for cell in found] == [8, 12, 16, 24, 40, 80]
    assert [cell.stock_seconds is not None for cell in found] == [False, False, False, True, True, True]
    assert all(cell.tuned_seconds is not None for cell in found)
    head, rule, row = table.markdown("7B", found).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 8
    assert row.startswith("| 384x672x25 | ✗ / ")
    beside = table.markdown("easyanimate-v5-7b-inp", found, beside_published=True)
    assert [text[:4] for text in beside.splitlines()[-1].split("| ")[2:]] == [
        "– · ",
        "– · ",
        "Q · ",
        *["M · "] * 3,
    ]


@pytest.mark.parametrize(("size", "memory"), [((672, 384, 25), 24), ((1024, 1024, 49), 8)])
def test_the_committed_table_is_what_is_forecast_now(forecaster, size, memory):
    committed = json.loads((BENCHMARKS / "fits.json").read_text(encoding="utf-8"))["easyanimate-v5-7b-inp"]
    (was,) = (cell for cell in committed if cell["size"] == list(size) and cell["memory"] == memory)
    now = table.cell("easyanimate-v5-7b-inp", size, memory, forecaster)
    assert (was["stock_seconds"] is None) == (now.stock_seconds is None)
    assert was["tuned_seconds"] == pytest.approx(now.tuned_seconds, rel=1e-3), (
        "run `tuner forecast table --out ...`"
    )
