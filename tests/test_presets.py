from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import presets
from tuner.errors import BadInput
from tuner.presets import Preset, PresetMeasured, PresetRequest, dump_preset, parse_preset, read_preset
from tuner.request import Request
from tuner.settings import KNOBS, Knob, Settings

HEAD = '[preset]\nname = "mine"\nschema = 1\n'


def values_of(name: str, knob: Knob) -> st.SearchStrategy:
    if knob.choices:
        return st.sampled_from(knob.choices)
    whole = Settings.model_fields[name].annotation is int
    return st.integers(int(knob.minimum), int(knob.maximum)) if whole else st.floats(knob.minimum, knob.maximum)


any_settings = st.builds(Settings, **{name: values_of(name, knob) for name, knob in KNOBS.items()})
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
any_line = any_text.filter(str.isprintable)
any_request = st.builds(
    PresetRequest,
    prompt=st.none() | any_text,
    negative_prompt=st.none() | any_text,
    width=st.none() | st.sampled_from([16, 128, 2048]),
    frames=st.none() | st.sampled_from([1, 5, 49]),
    guidance=st.none() | st.floats(0, 30),
    seed=st.none() | st.integers(0, 2**32 - 1),
    scheduler=st.sampled_from([None, "ddim", "dpm++"]),
)
any_measured = st.builds(
    PresetMeasured,
    peak_allocated_bytes=st.none() | st.integers(0, 2**40),
    seconds=st.none() | st.floats(0, 1e6),
    machine=st.none() | any_line,
)
any_preset = st.builds(
    Preset,
    name=any_line,
    model=any_text,
    gpu=any_line,
    settings=any_settings,
    request=any_request,
    loras=st.dictionaries(any_line.filter(bool), st.floats(-10, 10), max_size=3),
    measured=any_measured,
)


@given(any_preset)
def test_parsing_what_was_dumped_gives_the_same_preset(preset: Preset) -> None:
    assert parse_preset(dump_preset(preset)) == preset


@pytest.mark.parametrize(("loras", "named"), [("a = 11", "loras.a"), ('a = "1"', "loras"), ("a = nan", "loras")])
def test_a_lora_needs_a_sane_weight(loras: str, named: str) -> None:
    with pytest.raises(BadInput, match=named) as raised:
        parse_preset(f"{HEAD}[loras]\n{loras}\n")
    assert "\n" not in str(raised.value)


def test_a_saved_preset_gives_python_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(chunk_size=8, cache_capacity=0.25, layout="chunked")
    presets.save_preset(tmp_path / "mine.toml", settings, model="demo", request=Request(prompt="猫 😀", width=128))
    saved = read_preset(tmp_path / "mine.toml")
    assert presets.load_preset(tmp_path / "mine.toml") == settings
    assert (saved.name, saved.model, saved.request.prompt, saved.request.width) == ("mine", "demo", "猫 😀", 128)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.toml"]


def test_every_knob_is_explained_above_its_value() -> None:
    text = dump_preset(Preset(name="x"))
    for name, knob in KNOBS.items():
        comment = text.partition(f"\n{name} = ")[0].splitlines()[-1]
        assert comment.startswith("# ") and knob.allowed in comment


def test_a_preset_remembers_what_was_measured_and_says_it_in_gib(tmp_path: Path) -> None:
    measured = {"peak_allocated_bytes": 3 * 1024**3, "seconds": 12.5, "step_seconds": [1.0]}
    presets.save_preset(tmp_path / "m.toml", Settings(), measured=measured)
    assert read_preset(tmp_path / "m.toml").measured == PresetMeasured(
        peak_allocated_bytes=3 * 1024**3, seconds=12.5
    )
    assert "# 3.000 GiB" in (tmp_path / "m.toml").read_text()


def test_every_shipped_preset_is_read_and_says_whether_it_was_measured() -> None:
    files = presets.shipped_presets()
    assert files[0].stem == "demo-cpu" and len(files) == 29  # the others: tests/forecast/test_shipped.py
    for file in files:
        preset = read_preset(file)
        assert preset.name and preset.model and preset.request.steps
        if preset.model != "demo":
            assert preset.measured.seconds or "not yet measured" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        (HEAD + "[settings]\nchunk_size = 3", "settings.chunk_size", "0, 1, 2, 4"),
        (HEAD + '[settings]\nchunk_size = "4"', "settings.chunk_size", "a whole number"),
        (HEAD + "[settings]\nchunk_size = true", "settings.chunk_size", "a whole number"),
        (HEAD + "[settings]\ncache_capacity = -1", "settings.cache_capacity", "0 to 1024 GiB"),
        (HEAD + "[settings]\ncache_capacity = nan", "settings.cache_capacity", "finite"),
        (HEAD + f"[settings]\ncache_capacity = 1{'0' * 400}", "settings.cache_capacity", ""),
        (HEAD + "[settings]\nchunksize = 4", "settings.chunksize", "chunk_size, batch_size"),
        (HEAD + "[request]\nwidth = 100", "request.width", "a multiple of 16"),
        (HEAD + "[request]\nframes = 1979-05-27", "request.frames", "a whole number"),
        (HEAD + '[request]\nstart_image = "a.png"', "request.start_image", "no such key"),
        (HEAD + "[measured]\nseconds = -1", "measured.seconds", "0 or more"),
        (HEAD + "[extra]\n", "extra", "preset, settings, request, loras, measured"),
        ("settings = 4\n" + HEAD, "settings", "a table"),
        (HEAD + 'color = "red"\n', "preset.color", "name, schema, model, gpu"),
        (HEAD + "settings = {}\n", "preset.settings", "name, schema, model, gpu"),
        ('[preset]\nschema = 1\nname = "two\\nlines"', "preset.name", "one printable line"),
        ("[preset]\nschema = 1\n", "preset.name", "required"),
        ('[preset]\nname = "mine"\n', "preset.schema", "required"),
        (HEAD.replace("1", "2"), "preset.schema", "newer"),
        (HEAD.replace("1", "true"), "preset.schema", "1"),
        (HEAD.replace("1", '"1"'), "preset.schema", "1"),
        ("{}", "preset", "TOML"),
        ("a = " + "[" * 5000, "preset", "TOML"),
        (HEAD + "#" * 64 * 1024, "preset", "64 KiB"),
    ],
)
def test_a_bad_preset_is_refused_by_the_name_of_its_key(text: str, field: str, allowed: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parse_preset(text)
    assert refusal.value.field == field
    assert allowed in refusal.value.allowed
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_preset_is_refused_in_one_line(tmp_path: Path) -> None:
    files = {"missing.toml": None, "latin.toml": HEAD.encode() + b"# \xe9", "big.toml": b"#" * 70_000}
    files |= {"fake.mp4": b"not a clip", "broken.mp4": b"\0\0\0\x20ftypisom" + b"\0" * 100}
    for name, data in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match=name) as refusal:
            read_preset(tmp_path / name)
        assert "\n" not in str(refusal.value)
    with pytest.raises(BadInput, match="existing preset file"):
        read_preset(tmp_path)


def write_clip(path: Path, comment: str) -> None:
    with av.open(str(path), "w") as clip:
        clip.metadata["comment"] = comment
        stream = clip.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        clip.mux([*stream.encode(frame), *stream.encode()])


def test_a_clip_gives_back_the_preset_it_carries(tmp_path: Path) -> None:
    request = Request(prompt='a "red"\tball\n移动 😀', seed=7, width=128, height=96)
    preset = Preset(name="clip", settings=Settings(chunk_size=1), request=PresetRequest.of(request))
    write_clip(tmp_path / "video.mp4", dump_preset(preset))
    assert read_preset(tmp_path / "video.mp4") == preset


def test_a_clip_of_another_program_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "holiday.mp4", "summer")
    with pytest.raises(BadInput, match=r"holiday\.mp4"):
        read_preset(tmp_path / "holiday.mp4")


def test_a_preset_that_cannot_be_written_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        presets.save_preset(tmp_path / "nowhere" / "x.toml", Settings())
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_measures_is_more_than_a_preset_keeps() -> None:
    kept = PresetMeasured.of({"seconds": 1.0, "fragmentation": 0.1, "peak_reserved_bytes": 5})
    assert kept == PresetMeasured(seconds=1.0, peak_reserved_bytes=5)
