from __future__ import annotations

import pytest

from tuner.bench.reports import strategies_tables
from tuner.bench.table import in_words, table

ALONE = {"combined_of_stock": None}
DONE = {
    "name": "stock",
    "status": "done",
    "peak_allocated_bytes": 3 * 1024**3 // 2,
    "peak_reserved_bytes": 2 * 1024**3,
    "fragmentation": 0.25,
    "seconds": 12.345,
    "seconds_per_frame": 0.25194,
    "transfers": {"h2d_count": 16, "h2d_bytes": 1024**2, "d2h_count": 7, "d2h_bytes": 0},
    "transfers_per_step": {"h2d_count": 2, "h2d_bytes": 1024, "d2h_count": 0, "d2h_bytes": 0},
    "largest_difference": 0.0,
    "stages": [{"name": "denoise", "seconds": 9.87, "peak_allocated_bytes": 0}],
}


def test_a_row_shows_every_cost():
    line = strategies_tables({"rows": [DONE], **ALONE}).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "stock", "1.50 GiB", "2.00 GiB", "25.0%", "12.35", "0.252",
        "16 x, 1.0 MiB", "7 x, 0.0 MiB", "2 x, 0.0 MiB", "0.0e+00",
    ]  # fmt: skip


def test_a_strategy_that_ran_out_of_memory_says_so_and_has_no_figures():
    out_of_memory = {"name": "stock", "status": "out of memory", "settings": {}}
    rows = [out_of_memory, {**DONE, "name": "chunked"}]
    line = strategies_tables({"rows": rows, **ALONE}).splitlines()[2]
    assert "stock (out of memory)" in line
    assert line.count(" - |") == 9


def test_without_stock_there_is_no_difference_to_show():
    line = strategies_tables({"rows": [{**DONE, "largest_difference": None}], **ALONE}).splitlines()[2]
    assert line.endswith(" - |")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_columns_line_up(language):
    lines = strategies_tables({"rows": [DONE], **ALONE}, language).splitlines()
    wide = [sum(2 if character >= "\u1100" else 1 for character in line) for line in lines[:3]]
    assert len(set(wide)) == 1


def test_both_languages_have_the_same_figures():
    english, chinese = (
        strategies_tables({"rows": [DONE], **ALONE}, language).splitlines() for language in ("en", "zh")
    )
    assert english[0] != chinese[0]
    assert english[2].split() == chinese[2].split()


def test_a_table_is_markdown():
    assert table(["a", "b"], [["x", "1"]]) == "| a   |   b |\n| --- | --: |\n| x   |   1 |\n"


def test_bytes_are_shown_in_the_unit_that_fits():
    assert in_words(1024**3 - 1) == "1024.0 MiB"
    assert in_words(1024**3) == "1.00 GiB"
