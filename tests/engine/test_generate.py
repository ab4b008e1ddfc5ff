from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from PIL import Image

import tuner
from tuner.engine import VaeRunner
from tuner.engine.transformer import check_attention
from tuner.errors import BadInput, Cancelled, OutOfMemory
from tuner.meter.events import Failed, Finished, FramesReady, StageStarted, StepDone
from tuner.meter.memory import CpuMemory
from tuner.presets import read_preset
from tuner.settings import Attention

SAMPLE = Path(__file__).parents[2] / "assets" / "samples" / "coffee.jpg"
SMALL = tuner.Request(prompt="a red ball", width=32, height=48, frames=9, steps=2, seed=5, start_image=SAMPLE)


def made(components, settings=None, request=SMALL, **options):
    components.encodings.clear()
    return tuner.generate(request, settings or tuner.Settings(), components, return_frames=True, **options)


@pytest.fixture(scope="module")
def stock_frames(demo):
    return made(demo, tuner.Settings(engine="stock")).frames


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
@pytest.mark.parametrize(
    ("chunk_size", "batch_size", "cache_capacity"),
    list(itertools.product([0, 1, 4, 8], [1, 2], [0.0, 0.005, 1.0])),
)
def test_every_setting_gives_the_frames_of_stock(
    demo, stock_frames, chunk_size, batch_size, cache_capacity, layout
):
    settings = tuner.Settings(
        chunk_size=chunk_size, batch_size=batch_size, cache_capacity=cache_capacity, layout=layout
    )
    assert (made(demo, settings).frames - stock_frames).abs().max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"start_image": None},
        {"end_image": SAMPLE},
        {"start_image": None, "end_image": SAMPLE},
        {"guidance": 1.0},
        {"scheduler": "euler"},
        {"scheduler": "euler-a"},
        {"scheduler": "dpm++"},
        {"scheduler": "unipc"},
        {"scheduler": "pndm", "steps": 4},
        {"frames": 1},
    ],
    ids=str,
)
def test_every_kind_of_request_gives_the_frames_of_stock(demo, change):
    request = SMALL.replace(**change)
    stock = made(demo, tuner.Settings(engine="stock"), request)
    tuned = made(demo, tuner.Settings(batch_size=1, cache_capacity=0.0, chunk_size=1), request)
    assert tuned.frames.shape == (1, request.frames, 48, 32, 3)
    assert (tuned.frames - stock.frames).abs().max() < 1e-4


CLIP = np.random.default_rng(0).integers(0, 256, (9, 48, 32, 3), dtype=np.uint8)
MASK = np.zeros((48, 32, 3), np.uint8)
MASK[:24] = 255


@pytest.mark.parametrize(
    "change",
    [
        {"source_video": CLIP, "mask": MASK},
        {"source_video": CLIP, "strength": 0.5},
        {"source_video": CLIP, "mask": MASK, "strength": 0.5, "scheduler": "euler"},
    ],
    ids=["mask", "strength", "both"],
)
def test_a_source_clip_is_changed_the_same_way_by_every_engine(demo, change):
    request = SMALL.replace(start_image=None, steps=4, **change)
    stock = made(demo, tuner.Settings(engine="stock"), request)
    tuned = made(demo, tuner.Settings(batch_size=1, cache_capacity=0.0, chunk_size=1), request)
    assert (tuned.frames - stock.frames).abs().max() < 1e-4
    assert len(tuned.measured["step_seconds"]) == (4 if request.strength == 1 else 2)


def test_less_strength_keeps_more_of_the_source_clip(demo):
    pixels = torch.from_numpy(CLIP).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    source = VaeRunner(demo.vae, tuner.Settings(), "cpu").encode(pixels) * demo.vae.config["scaling_factor"]
    request = SMALL.replace(start_image=None, steps=10, source_video=CLIP, strength=0.1)
    far = made(demo, request=request.replace(strength=0.9)).latents - source
    near = made(demo, request=request).latents - source
    assert near.square().mean() < far.square().mean() / 4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_several_clips_are_those_of_the_seeds_that_follow(demo, tmp_path, batch_size):
    settings = tuner.Settings(batch_size=batch_size)
    together = made(demo, settings, SMALL.replace(num_clips=3), output_dir=tmp_path)
    assert together.frames.shape == (3, 9, 48, 32, 3)
    assert [path.name for path in together.videos] == ["video.mp4", "video-2.mp4", "video-3.mp4"]
    for number, path in enumerate(together.videos):
        alone = made(demo, settings, SMALL.replace(seed=5 + number))
        assert (together.frames[number] - alone.frames[0]).abs().max() < 1e-4
        assert read_preset(path).request.seed == 5 + number


def stage_peak(result, name):
    return next(stage["peak_allocated_bytes"] for stage in result.measured["stages"] if stage["name"] == name)


def test_fewer_frames_at_once_lower_the_decoding_peak(demo):
    peaks = [stage_peak(made(demo, tuner.Settings(chunk_size=size)), "decode") for size in (0, 4, 2, 1)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


def test_one_branch_at_a_time_lowers_the_denoising_peak(demo):
    request = SMALL.replace(width=64, height=64)
    one, two = (stage_peak(made(demo, tuner.Settings(batch_size=size), request), "denoise") for size in (1, 2))
    assert one < two


def test_less_cache_is_less_memory_and_more_transfers(demo):
    runs = [made(demo, tuner.Settings(cache_capacity=capacity)) for capacity in (1.0, 0.01, 0.005, 0.0)]
    peaks = [run.measured["peak_allocated_bytes"] for run in runs]
    copied = [run.measured["transfers"]["h2d_bytes"] for run in runs]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]
    assert copied == sorted(copied)
    assert copied[0] < copied[-1]


def test_with_everything_resident_no_step_copies_to_the_device(demo):
    few, many = (made(demo, request=SMALL.replace(steps=steps)).measured["transfers"] for steps in (2, 6))
    timesteps = 4 * 4  # four more float32 timesteps, in the one copy before the first step
    assert many["h2d_count"] == few["h2d_count"]
    assert many["h2d_bytes"] == few["h2d_bytes"] + timesteps


def test_the_same_seed_gives_the_same_clip_and_another_one_does_not(demo):
    first, again = made(demo), made(demo)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, made(demo, request=SMALL.replace(seed=6)).frames)


def test_the_start_picture_reaches_the_model(demo):
    with_picture = made(demo).frames
    assert not torch.allclose(with_picture, made(demo, request=SMALL.replace(start_image=None)).frames, atol=1e-3)


def test_a_prompt_and_a_picture_are_encoded_once_for_many_runs(demo):
    demo.encodings.clear()
    first, second = (tuner.generate(SMALL, tuner.Settings(), demo) for _ in range(2))
    seconds = [{stage["name"]: stage["seconds"] for stage in run.measured["stages"]} for run in (first, second)]
    assert second.measured["cache"]["conditions"]["misses"] < first.measured["cache"]["conditions"]["misses"]
    assert seconds[1]["encode image"] < seconds[0]["encode image"] / 2
    assert torch.equal(first.latents, second.latents)


def test_the_mp4_has_every_frame_and_carries_its_preset(demo, tmp_path):
    settings = tuner.Settings(chunk_size=8, batch_size=1)
    result = made(demo, settings, SMALL.replace(fps=8), output_dir=tmp_path)
    with av.open(str(result.video)) as clip:
        stream = clip.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 8
    assert [frame.shape for frame in frames] == [(48, 32, 3)] * 9
    shown = np.stack(frames).astype(float) / 255
    assert np.abs(shown - result.frames[0].numpy()).mean() < 0.1
    preset = read_preset(result.video)
    assert (preset.settings, preset.model, preset.request.seed) == (settings, "demo", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_events_tell_the_run_in_order(demo, tmp_path):
    events = []
    result = made(demo, on_event=events.append, output_dir=tmp_path)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["encode text", "encode image", "denoise", "decode", "write"]
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2]
    assert [event.done for event in events if isinstance(event, FramesReady)] == [1, 5, 9]
    assert isinstance(events[-1], Finished)
    assert events[-1].measured == result.measured
    assert sum(stage["seconds"] for stage in result.measured["stages"]) <= result.measured["seconds"]


@pytest.mark.parametrize("moment", [StageStarted, StepDone, FramesReady])
def test_a_stopped_run_ends_there_and_leaves_no_half_file(demo, tmp_path, moment):
    events = []
    stop = lambda: any(isinstance(event, moment) for event in events)  # noqa: E731
    with pytest.raises(Cancelled):
        made(demo, on_event=events.append, output_dir=tmp_path, should_stop=stop)
    assert isinstance(events[-1], Failed)
    assert events[-1].status == "cancelled"
    assert list(tmp_path.iterdir()) == []
    assert made(demo).frames.shape[1] == 9, "the model is as good as before"


def test_running_out_of_memory_is_told_as_such(demo):
    events = []
    huge = SMALL.replace(width=2048, height=2048, frames=49, start_image=None, steps=1)
    with pytest.raises(OutOfMemory) as raised, limited_address_space():
        made(demo, tuner.Settings(chunk_size=0, token_chunk=0), huge, on_event=events.append)
    assert raised.value.stage == "denoise"
    assert raised.value.asked_bytes > raised.value.free_bytes > 0
    assert raised.value.suggestion == {"batch_size": 1}
    assert str(raised.value).endswith("free; try batch_size 1")
    assert (events[-1].status, events[-1].suggestion) == ("out of memory", {"batch_size": 1})


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("encode text", {"prefetch": 0}),
        ("encode image", {"chunk_size": 2}),
        ("denoise", {"batch_size": 1}),
        ("decode", {"chunk_size": 2}),
        ("write", {"workers": 1}),
    ],
)
def test_an_allocation_that_fails_is_told_with_its_stage_and_what_to_try(demo, tmp_path, stage, advice):
    events = []

    def full(event):
        events.append(event)
        if isinstance(event, StageStarted) and event.stage == stage:
            torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(
        OutOfMemory, match=f"^out of memory in stage {stage}: 1048576.00 GiB asked for, "
    ) as raised:
        made(demo, on_event=full, output_dir=tmp_path)
    assert raised.value.suggestion == advice
    assert raised.value.asked_bytes == 2**50
    assert events[-1] == Failed(events[-1].at, "out of memory", str(raised.value), advice)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert made(demo).frames.shape[1] == 9, "the model is as good as before"


def test_what_caches_held_is_what_the_advice_lowers(demo):
    settings = tuner.Settings(batch_size=1, token_chunk=256, cache_capacity=1.0)

    def full(event):
        if isinstance(event, StepDone):
            torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(OutOfMemory) as raised:
        made(demo, settings, on_event=full)
    assert raised.value.suggestion == {"cache_capacity": 0.0}, "the demo's blocks take some MiB"


def test_a_cache_larger_than_the_machine_is_refused_with_its_size(demo):
    with pytest.raises(BadInput, match=r"^cache_capacity: 1000.0 is not .* 0 to [\d.]+ GiB on this computer$"):
        made(demo, tuner.Settings(cache_capacity=1000.0))
    assert made(demo, tuner.Settings(cache_capacity=1000.0, engine="stock")).frames.shape[1] == 9


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
def test_a_chunk_longer_than_the_clip_is_all_of_it(demo, layout):
    longer, everything = (made(demo, tuner.Settings(chunk_size=size, layout=layout)) for size in (64, 0))
    assert torch.equal(longer.frames, everything.frames)
    assert stage_peak(longer, "decode") == stage_peak(everything, "decode")


def test_twenty_generations_leave_the_memory_of_the_first(demo):
    request = SMALL.replace(width=32, height=32, frames=5, steps=1)
    demo.encodings.clear()
    held = []
    with CpuMemory() as memory:
        for _ in range(20):
            tuner.generate(request, tuner.Settings(), demo)
            held.append(memory.allocated)
    assert held == held[:1] * 20, "nothing waits for a garbage collection either"


class limited_address_space:  # noqa: N801 - reads as a context
    def __enter__(self):
        import resource

        self.before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 1024**2, self.before[1]))

    def __exit__(self, *_):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, self.before)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start_image": "no/such/file.png"}, "start_image"),
        ({"end_image": __file__}, "end_image"),
        ({"scheduler": "flow"}, "scheduler"),
        ({"scheduler": "pndm", "steps": 3}, "steps"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_that_names_the_field(demo, change, field):
    with pytest.raises(BadInput, match=f"^{field}: .* allowed: ") as raised:
        made(demo, request=SMALL.replace(**change))
    assert "\n" not in str(raised.value)


def test_a_picture_too_large_is_refused(demo, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(BadInput, match="10000x10000"):
        made(demo, request=SMALL.replace(start_image=path))


def test_a_precision_the_model_was_not_loaded_in_is_refused(demo):
    with pytest.raises(BadInput, match="precision"):
        made(demo, tuner.Settings(precision="bfloat16"))


def test_a_folder_that_cannot_be_written_is_named(demo, tmp_path):
    with pytest.raises(tuner.TunerError, match=r"cannot write .*nowhere"):
        made(demo, output_dir=tmp_path / "nowhere")


def test_initial_latents_of_another_shape_are_refused(demo):
    with pytest.raises(BadInput, match="initial_latents"):
        made(demo, initial_latents=torch.zeros(1, 16, 3, 6, 5))


def test_the_text_projection_is_a_choice_that_shows(demo, stock_frames):
    diffusers = made(demo, tuner.Settings(text_projection="diffusers")).frames
    assert not torch.allclose(diffusers, stock_frames, atol=1e-5)
    stock = made(demo, tuner.Settings(text_projection="diffusers", engine="stock")).frames
    assert (diffusers - stock).abs().max() < 1e-4
    assert (made(demo).frames - stock_frames).abs().max() < 1e-4, "and the choice does not stay"


@pytest.mark.parametrize("backend", get_args(Attention))
def test_an_attention_backend_runs_here_or_is_refused_in_one_line(demo, stock_frames, backend):
    settings = tuner.Settings(attention=backend)
    if backend in ("native", "_native_flash", "_native_math"):
        assert (made(demo, settings).frames - stock_frames).abs().max() < 1e-4
    else:
        with pytest.raises(BadInput, match=f"^attention: '{backend}' is not allowed; allowed: native"):
            made(demo, settings)


@pytest.mark.parametrize(("backend", "package"), [("flash", "flash_attn"), ("sage", "sageattention")])
def test_on_a_card_a_missing_attention_package_is_named(backend, package):
    with pytest.raises(BadInput, match=package):
        check_attention(backend, torch.device("cuda"))


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "interleaved"])
def test_in_16_bits_the_clip_is_stocks_but_for_rounding(layout):
    request = tuner.Request(prompt="a red ball", width=64, height=64, frames=9, steps=4, seed=3)
    components = tuner.load_model("demo", tuner.Settings(precision="bfloat16"), "cpu")
    clips = [
        tuner.generate(request, settings, components, return_frames=True).frames
        for settings in (tuner.Settings(engine="stock"), tuner.Settings(layout=layout))
    ]
    error = (clips[0] - clips[1]).square().mean().item()
    assert error < 10 ** (-45 / 10), "at least 45 dB"
