from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.cli.main import main
from tuner.runs.store import RunRecord, Store
from tuner.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of its own."""
    monkeypatch.setenv("TUNER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tuner(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["forecast", *arguments])
    return ended.value.code


CLIP = ("--model", "easyanimate-v5-7b-inp", "--width", "1024", "--height", "1024", "--frames", "9", "--steps", "6")


@pytest.mark.parametrize(("gpu", "fits"), [("h200", True), ("rtx3060-12gb", False)])
def test_json_has_the_documented_keys_and_ends_well_whether_or_not_it_fits(gpu, fits, capsys):
    assert tuner(*CLIP, "--gpu", gpu, "--engine", "stock", "--start-image", "not opened.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["gpu"], answer["fits"], len(answer["step_seconds"])) == (gpu, fits, 6)
    assert [stage["name"] for stage in answer["stages"]] == ["encode text", "encode image", "denoise", "decode"]


def test_a_person_reads_a_table(capsys):
    assert tuner("--preset", "demo-cpu", "--frames", "5", "--steps", "4") == 0
    text = capsys.readouterr().out
    assert "128x128, 5 frames, 4 steps" in text and "decode" in text and "fits" in text


@pytest.mark.parametrize("fit", [("--fit", "6"), ("--fit",)])
def test_settings_that_fit_are_looked_for(fit, capsys):
    assert tuner("--model", CLIP[1], "--frames", "5", "--steps", "3", *fit, "--json", "--gpu", "rtx3060-12gb") == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["fits"] and answer["settings"]["engine"] == "tuned"


def test_a_timeline_is_written(tmp_path, capsys):
    assert tuner("--frames", "5", "--steps", "3", "--timeline", str(tmp_path / "run")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.csv", "run.html"]  # and no data directory
    assert str(tmp_path / "run.csv") in capsys.readouterr().err


def test_the_runs_here_correct_the_seconds_of_the_card_they_ran_on(home, capsys):
    def ask(*arguments: str) -> dict:
        assert tuner("--frames", "5", "--steps", "3", "--json", *arguments) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    plain, card = ask("--gpu", "cpu"), ask("--gpu", "a10")
    measured = {"stages": [{**stage, "seconds": 3 * stage["seconds"]} for stage in plain["stages"]]}
    known = {"settings": Settings().model_dump(mode="json"), "forecast": plain, "measured": measured}
    store = Store(home)
    store.add(RunRecord("one", "2026-01-01T00:00:00+00:00", "done", "demo", {}, **known))
    store.close()
    learned = ask("--gpu", "cpu")
    assert learned["seconds"] == pytest.approx(3 * plain["seconds"], rel=0.01)
    assert learned["learned"]["runs"] == 1
    assert ask("--gpu", "cpu", "--no-learning") == plain
    assert ask("--gpu", "a10") == card
    assert tuner("--frames", "5", "--steps", "3", "--gpu", "cpu") == 0
    assert "learned from 1 run on this card" in capsys.readouterr().out


def test_a_damaged_store_is_a_warning_and_no_obstacle(home, capsys):
    home.mkdir()
    (home / "tuner.db").write_bytes(b"no database" * 100)
    assert tuner("--frames", "5", "--steps", "3", "--gpu", "cpu", "--json") == 0
    out, err = capsys.readouterr()
    assert "learned" not in json.loads(out)
    assert err.startswith("warning: nothing was learned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "b200"), "gpu: 'b200' is not allowed"),
        (("--model", "nothing"), "model: 'nothing'"),
        (("--width", "100"), "width: 100"),
        (("--gpu", "t4", "--set", "precision=bfloat16"), "float16"),
        (("--engine", "fast"), "tuned"),
        (("--fit", "much"), "a number of GiB"),
        (("--fit", "0"), "a number of GiB"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert tuner(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
