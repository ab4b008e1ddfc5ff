from __future__ import annotations

from tuner.forecast import table
from tuner.forecast.forecast import Forecaster


def test_every_size_and_memory_has_its_minutes_or_a_cross(monkeypatch):
    monkeypatch.setattr(table, "SIZES", ((672, 384, 25),))
    found = table.cells("easyanimate-v5-7b-inp", Forecaster())
    assert set(found) == {((672, 384, 25), memory) for memory in (8, 12, 16, 24, 40, 80)}
    assert [cell.stock_seconds is not None for cell in found.values()] == [False, False, False, True, True, True]
    assert all(cell.tuned_seconds is not None for cell in found.values())
    head, rule, row = table.markdown("7B", found).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 8
    assert row.startswith("| 384x672x25 | ✗ / ")
