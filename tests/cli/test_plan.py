from pathlib import Path

import pytest

from tuner.cli.plan import make_plan
from tuner.errors import BadInput
from tuner.models.registry import find_model
from tuner.presets import save_preset
from tuner.request import Request
from tuner.settings import KNOBS, Settings


@pytest.fixture
def preset(tmp_path: Path) -> str:
    request = Request(prompt="from the preset", width=96, height=80, frames=5, steps=7)
    save_preset(tmp_path / "mine.toml", Settings(chunk_size=8), name="Mine", model="demo", request=request)
    return str(tmp_path / "mine.toml")


def test_without_anything_the_model_decides() -> None:
    plan, demo = make_plan("", "", [], {}), find_model("demo")
    assert plan.model == "demo"
    assert (plan.request.width, plan.request.height) == (demo.width, demo.height)
    assert (plan.request.frames, plan.request.steps, plan.request.fps) == (demo.frames, demo.steps, demo.fps)
    assert plan.settings == Settings()


def test_a_flag_beats_the_preset_which_beats_the_model(preset: str) -> None:
    plan = make_plan("", preset, ["chunk_size=1"], {"width": 64, "height": None, "prompt": "from the flag"})
    assert (plan.request.width, plan.request.height, plan.request.steps) == (64, 80, 7)
    assert plan.request.prompt == "from the flag"
    assert plan.settings == Settings(chunk_size=1)
    assert plan.preset == "Mine"


def test_a_flag_with_an_empty_text_beats_the_preset_too(preset: str) -> None:
    assert make_plan("", preset, [], {"prompt": ""}).request.prompt == ""


def test_a_shipped_preset_is_found_by_its_name() -> None:
    assert make_plan("", "demo-cpu", [], {}).settings.precision == "float32"


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_can_be_set(name: str) -> None:
    knob = KNOBS[name]
    value = knob.choices[-1] if knob.choices else min(knob.maximum, 1.0 if knob.unit == "GiB" else 64)
    plan = make_plan("", "", [f"{name}={value}"], {})
    assert getattr(plan.settings, name) == value


@pytest.mark.parametrize(
    ("model", "preset", "knobs", "flags", "named"),
    [
        ("dmeo", "", [], {}, "demo"),
        ("", "demo-gpu", [], {}, "demo-cpu"),
        ("", "", ["chunk_size"], {}, "knob=value"),
        ("", "", ["cache_capacity=1024"], {}, "cache_capacity"),
        ("", "", ["chunks=1"], {}, "chunk_size"),
        ("", "", ["chunk_size=many"], {}, "0, 1, 2"),
        ("", "", ["batch_size=0"], {}, "1 to 16"),
        ("", "", [], {"height": 100}, "multiple of 16"),
        ("", "", [], {"frames": 50}, "4k+1"),
        ("", "", [], {"steps": 0}, "1 to 200"),
        ("", "", [], {"start_image": "/nowhere.png"}, "existing file"),
        ("", "", [], {"source_video": "/nowhere.mp4", "strength": 0.5}, "existing"),
        ("", "", [], {"source_video": "/nowhere.mp4"}, "given with a mask"),
        ("", "", [], {"num_clips": 17}, "1 to 16 clips"),
        ("", "", [], {"prompt": "x" * 10_000}, "5000 characters"),
        ("", "", [], {"scheduler": "magic"}, "ddim"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    model: str, preset: str, knobs: list[str], flags: dict[str, object], named: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        make_plan(model, preset, knobs, flags)
    assert named in str(refusal.value) and "\n" not in str(refusal.value)
