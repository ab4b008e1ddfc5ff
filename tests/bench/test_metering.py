from __future__ import annotations

import json

from tuner.bench.metering import COUNTED, TOLD, UNMETERED, run


def test_each_way_of_metering_is_compared_with_none(tmp_path):
    out = tmp_path / "metering.json"
    run(width=32, height=32, frames=5, steps=1, repeats=2, out=out)
    result = json.loads(out.read_text())
    assert {name: len(each) for name, each in result["seconds"].items()} == {UNMETERED: 2, COUNTED: 2, TOLD: 2}
    for name, ratio in result["median_ratio"].items():
        pairs = [
            one / base for one, base in zip(*(result["seconds"][way] for way in (name, UNMETERED)), strict=True)
        ]
        assert min(pairs) <= ratio <= max(pairs)
    assert set(result["median_ratio"]) == {COUNTED, TOLD}
