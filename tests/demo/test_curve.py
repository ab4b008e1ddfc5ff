from __future__ import annotations

import pytest

from tuner.demo.curve import Curve
from tuner.errors import TunerError


def test_a_resumed_curve_drops_points_behind_its_checkpoint_and_a_line_cut_off(tmp_path):
    file = tmp_path / "vae.jsonl"
    file.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n{"ste')
    Curve(file, 20).add({"step": 30, "loss": 0.5})
    assert file.read_text() == '{"step": 10}\n{"step": 20}\n{"step": 30, "loss": 0.5}\n'


def test_a_curve_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "work").write_text("a file where a folder should be")
    with pytest.raises(TunerError, match=r"^vae.jsonl: could not be written \(.*\)$"):
        Curve(tmp_path / "work" / "vae.jsonl", 0)
