"""Shipped and own presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.errors import BadInput
from tuner.presets import shipped_presets
from tuner.request import Request
from tuner.settings import Settings
from tuner.ui.library import Library, preset_request
from tuner.ui.presets_tab import file_name


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def save(library: Library, name: str, **knobs: object) -> str:
    request = preset_request(Request(width=256, height=128, prompt="not kept"))
    return library.save(name, Settings(**knobs), model="demo", gpu="CPU", request=request).key


def test_every_shipped_preset_is_on_the_shelf(library: Library) -> None:
    assert [entry.path for entry in library.entries()] == shipped_presets()


def test_what_is_saved_is_read_back_without_the_prompt(library: Library) -> None:
    key = save(library, "my 8 GB", chunk_size=2, cache_capacity=0.25)
    preset = library.read(key)
    assert preset.settings == Settings(chunk_size=2, cache_capacity=0.25)
    assert preset.request.given == {
        "width": 256, "height": 128, "frames": 49, "fps": 8, "steps": 25, "guidance": 6.0,
        "num_clips": 1,
    }  # fmt: skip
    assert library.entries()[-1].own


def test_saving_again_replaces(library: Library) -> None:
    save(library, "mine", chunk_size=1)
    save(library, "mine", chunk_size=8)
    assert [entry.name for entry in library.entries() if entry.own] == ["mine"]
    assert library.read("own/mine").settings.chunk_size == 8


@pytest.mark.parametrize("name", ["", "  ", "../up", "a/b", ".hidden", "C:\\x", "n" * 61, "a\nb/../c"])
def test_a_name_that_is_no_file_name_is_refused_and_writes_nothing(library: Library, name: str) -> None:
    with pytest.raises(BadInput, match="preset_name"):
        save(library, name)
    assert not library.own_dir.exists()


def test_a_chinese_name_is_a_name(library: Library) -> None:
    assert library.read(save(library, "我的预设 8GB")).name == "我的预设 8GB"


def test_a_shipped_preset_can_be_neither_replaced_nor_deleted(library: Library) -> None:
    shipped = library.entries()[0]
    with pytest.raises(BadInput, match="no shipped preset has"):
        save(library, shipped.path.stem)
    with pytest.raises(BadInput, match="shipped ones stay"):
        library.delete(shipped.key)


def test_deleting_removes_the_file(library: Library) -> None:
    entry = library.delete(save(library, "mine"))
    assert not entry.path.exists()
    with pytest.raises(BadInput):
        library.read("own/mine")


def test_a_broken_file_does_not_hide_the_others(library: Library) -> None:
    save(library, "good")
    (library.own_dir / "broken.toml").write_text("not toml [")
    assert [entry.name for entry in library.entries() if entry.own] == ["good"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Demo on a CPU *", "Demo-on-a-CPU.toml"),
        ("../../etc", "etc.toml"),
        ("***", "preset.toml"),
        ("我的", "我的.toml"),
    ],
)
def test_a_download_has_a_plain_name(title: str, name: str) -> None:
    assert file_name(title) == name
