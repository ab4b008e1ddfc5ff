"""What the documentation says is true: generated parts are fresh, both languages agree, what is shown works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tuner.reference import READMES, ROOT, filled, knob_table
from tuner.settings import KNOBS

FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^    (\S.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)\)")
ENGLISH, CHINESE = (path.read_text(encoding="utf-8") for path in READMES)
BOTH = pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)


@BOTH
def test_the_generated_parts_are_fresh(path):
    text = path.read_text(encoding="utf-8")
    assert filled(text, READMES[path]) == text, "run `make docs`"


@BOTH
@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_documented(path, name):
    knob, text = KNOBS[name], path.read_text(encoding="utf-8")
    title, help_ = (knob.title.en, knob.help.en) if READMES[path] == "en" else (knob.title.zh, knob.help.zh)
    (row,) = (line for line in text.splitlines() if f"`{name}`" in line and line.startswith(f"| {title} "))
    assert help_ in row


def test_every_knob_has_words_in_both_languages():
    for name, knob in KNOBS.items():
        assert all(knob.title), name
        assert all(knob.help), name
        assert knob.help.en != knob.help.zh, name


def test_a_knob_table_has_one_row_per_knob():
    assert len(knob_table("en").splitlines()) == len(knob_table("zh").splitlines()) == len(KNOBS) + 2


def test_a_text_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="knobs"):
        filled("# A README that lost its marks\n", "en")


@BOTH
def test_every_link_leads_somewhere(path):
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_both_languages_show_the_same():
    assert FENCE.findall(ENGLISH) == FENCE.findall(CHINESE)
    commands = [[line.split("  #")[0].rstrip() for line in SHELL.findall(text)] for text in (ENGLISH, CHINESE)]
    assert commands[0] == commands[1]
    headings = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert headings[0] == headings[1]
    rows = [len(re.findall(r"^\|", text, re.MULTILINE)) for text in (ENGLISH, CHINESE)]
    assert rows[0] == rows[1]
    own = {"README.md", "README.zh-CN.md", "docs/screenshot-light.png", "docs/screenshot-zh.png"}
    assert set(LINK.findall(ENGLISH)) - own == set(LINK.findall(CHINESE)) - own


def test_the_python_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    (code,) = (code for code in FENCE.findall(ENGLISH) if "import tuner" in code)
    script = tmp_path / "tour.py"
    script.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert Path("video.mp4").is_file()
    assert Path("mine.toml").is_file()
    assert "video.mp4" in capsys.readouterr().out


def test_every_preset_that_ships_is_listed():
    for preset in (ROOT / "presets").glob("*.toml"):
        assert f"`{preset.stem}`" in ENGLISH
        assert f"`{preset.stem}`" in CHINESE
