import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.presets import parse_preset, save_preset, shipped_presets
from tuner.settings import KNOBS, Settings


def test_help_comes_without_torch_and_names_every_command() -> None:
    script = (
        "import sys; from tuner.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'diffusers', 'gradio', 'av'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert all(command in done.stdout for command in ("run", "ui", "bench", "presets", "models"))


def test_the_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "tuner", "models", "list"], capture_output=True, text=True)
    assert done.returncode == 0 and "demo" in done.stdout


def test_help_of_run_names_every_knob(tuner: Callable) -> None:
    done = tuner("run", "--help")
    assert done.code == 0
    words = done.out.replace(",", " ").replace(".", " ").split()
    assert set(KNOBS) <= set(words)


def test_nothing_asked_is_answered_with_help(tuner: Callable) -> None:
    done = tuner()
    assert done.code == 0 and "presets" in done.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rnu"], "rnu"),
        (["presets"], "--help"),
        (["run", "--widht", "64"], "--widht"),
        (["run", "--width", "wide"], "width: 'wide'"),
        (["run", "--guidance", "nan"], "guidance"),
        (["ui", "--port", "70000"], "--port"),
        (["presets", "check", "nothing"], "demo-cpu"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(tuner: Callable, arguments: list[str], named: str) -> None:
    done = tuner(*arguments)
    assert done.code == 2
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert named in done.err


def test_presets_are_listed_with_those_saved_on_the_page(tuner: Callable, tmp_path: Path) -> None:
    (tmp_path / "home" / "presets").mkdir(parents=True)
    save_preset(tmp_path / "home" / "presets" / "evening.toml", Settings(), name="Evening")
    (tmp_path / "home" / "presets" / "broken.toml").write_text("schema")
    listed = {row["name"]: row for row in tuner("presets", "list", "--json").json["presets"]}
    assert {path.stem for path in shipped_presets()} <= set(listed)
    assert listed["evening"]["title"] == "Evening"
    assert "TOML" in listed["broken"]["error"]


def test_a_preset_that_is_shown_is_one_that_can_be_read(tuner: Callable) -> None:
    for path in shipped_presets():
        assert parse_preset(tuner("presets", "show", path.stem).out).name
        assert tuner("presets", "check", path).code == 0


def test_check_names_the_key_that_is_wrong(tuner: Callable, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[preset]\nname = "bad"\nschema = 1\n[settings]\nchunk_size = 3\n')
    done = tuner("presets", "check", tmp_path / "bad.toml")
    assert done.code == 2
    assert "settings.chunk_size: 3 is not allowed; allowed: 0, 1, 2" in done.err


def test_models_say_whether_they_are_installed(tuner: Callable) -> None:
    listed = {row["name"]: row for row in tuner("models", "list", "--json").json["models"]}
    assert listed["demo"]["path"] and listed["demo"]["parameters"] > 0
    assert listed["easyanimate-v5-7b-inp"]["path"] is None
    assert "not installed" in tuner("models", "list").out
