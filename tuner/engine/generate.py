"""One generation from request to clip: encode text, encode image, denoise, decode, write."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tuner.engine.cache import ConditionCache
from tuner.engine.conditions import inpaint_latents, source_latents
from tuner.engine.denoise import denoise, make_scheduler, starting_point
from tuner.engine.device import free_bytes, machine_of
from tuner.engine.engines import ENGINES, Engine
from tuner.engine.heap import kept_heap
from tuner.engine.placement import Placement
from tuner.engine.preview import Preview, film_strip
from tuner.engine.progress import Progress, ProgressKeeper
from tuner.engine.run import Run
from tuner.engine.text import encode_prompts
from tuner.engine.transformer import check_attention
from tuner.engine.video import VideoWriter, unit_range
from tuner.errors import BadInput, OutOfMemory, TunerError
from tuner.machine import check_capacity
from tuner.meter.events import Failed, Finished, OnEvent, Previewed
from tuner.meter.measured import Measured
from tuner.meter.meter import Meter
from tuner.models.attention import use_text_projection
from tuner.models.components import Components
from tuner.presets import Preset, PresetRequest, dump_preset
from tuner.pressure import relieved
from tuner.request import Request
from tuner.settings import Settings

_HOST_CACHE_BYTES = 256 * 1024**2
_GUIDED = 1.0


@dataclass(frozen=True)
class Result:
    """What a generation gives.

    Attributes:
        latents: ``[clips, 16, t, h, w]`` after the last step, on the host.
        frames: float32 ``[clips, T, H, W, 3]`` in 0..1 before 8-bit rounding, if asked for.
        video: Path of the first clip's mp4, if one was written.
        measured: What the run cost.
        videos: Paths of all clips' mp4s.
    """

    latents: Tensor
    frames: Tensor | None
    video: Path | None
    measured: Measured
    videos: list[Path]


def generate(
    request: Request,
    settings: Settings,
    components: Components,
    *,
    on_event: OnEvent | None = None,
    initial_latents: Tensor | None = None,
    return_frames: bool = False,
    output_dir: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    meter: Meter | None = None,
    keep_progress: str | Path | None = None,
    resume: Progress | None = None,
    preview: Preview | None = None,
) -> Result:
    """Make a clip, or several of one prompt.

    Args:
        request: What to make.
        settings: How to make it.
        components: The model, from :func:`tuner.load_model`; keeps what was encoded for the next run.
        on_event: Receives everything that happens (see :mod:`tuner.meter.events`).
        initial_latents: Noise ``[clips, 16, t, h, w]`` before the scheduler's scaling; by default from the seeds.
        return_frames: Also return the frames as floats.
        output_dir: Write ``video.mp4`` (further clips: ``video-2.mp4``, ...) into this folder.
        should_stop: Asked between blocks, steps and chunks; True cancels the run.
        meter: Measures the run; by default a new one, which ``on_event`` and ``should_stop`` are handed to.
        keep_progress: File in which the latents reached are kept after every step, for :meth:`Progress.load`.
        resume: Go on from what an earlier run of the same request and model reached; settings may differ.
        preview: Shows the first clip after every step, and learns from it once it is decoded.

    Raises:
        BadInput: The request or the settings do not suit the model.
        OutOfMemory: The device or the host ran out of memory.
        Cancelled: ``should_stop`` said so.
        TunerError: The clip could not be written.
    """
    meter = meter or Meter(components.device, on_event, should_stop)
    with _told(meter, settings, request), kept_heap(components.device), meter:
        _check(request, settings, components, initial_latents, resume)
        use_text_projection(components.transformer, settings.text_projection)
        placement = Placement(components.device, meter)
        engine: Engine = ENGINES[settings.engine](components, settings, placement)
        encoded = ConditionCache(_HOST_CACHE_BYTES, meter.caches["conditions"], components.encodings)
        run = Run(request, settings, components, placement, engine, encoded)
        with engine.resident():
            if resume is not None and resume.done == resume.steps:
                meter.notice(f"resumed with all {resume.steps} steps done")
                latents = placement.to_device(resume.latents).to(components.dtype)
            else:
                latents = _denoised(run, initial_latents, resume, keep_progress, preview)
            kept = placement.to_host(latents)
            with ExitStack() as open_writers:
                writers = [open_writers.enter_context(writer) for writer in _writers(run, output_dir)]
                with meter.stage("decode"):
                    frames = _decode(run, latents, writers, return_frames, preview)
                    del latents
                    if preview:
                        preview.learn(kept[0])
                if writers:
                    with meter.stage("write"):
                        for writer in writers:
                            writer.finish()

    measured, videos = meter.measured(), [writer.path for writer in writers]
    meter.tell(Finished(meter.seconds, dict(measured), str(videos[0]) if videos else None))
    return Result(kept, frames, videos[0] if videos else None, measured, videos)


def _denoised(
    run: Run,
    initial_latents: Tensor | None,
    resume: Progress | None,
    keep_progress: str | Path | None,
    preview: Preview | None,
) -> Tensor:
    """Latents after the last step, on the device: encode text, encode image, denoise."""
    request, components, placement, meter = run.request, run.components, run.placement, run.meter
    with meter.host():
        scheduler = make_scheduler(request.scheduler, components.scheduler_config, request.steps)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in run.seeds]
        noise = run.noise(generators, resume.latents if resume else initial_latents)
    with meter.stage("encode text"):
        branches = [request.negative_prompt, request.prompt] if request.guidance > _GUIDED else [request.prompt]
        prompts = [prompt for prompt in branches for _ in generators]
        states = encode_prompts(prompts, components, placement, run.encoded, run.engine.encoder)
    with meter.stage("encode image"):
        inpaint = inpaint_latents(run, noise)
        source = source_latents(run, noise.dtype) if resume is None else None
    with meter.stage("denoise"), run.engine.transformer() as transformer:
        keeper = None
        if keep_progress is not None:
            parts = request, components, scheduler, generators, placement
            keeper = ProgressKeeper(Path(keep_progress), *parts)
        if resume is None:
            with meter.host():
                times, start = starting_point(scheduler, noise, source, request.strength)
            latents = placement.to_device(start)
        else:
            times = scheduler.timesteps[len(scheduler.timesteps) - resume.steps :]
            latents = resume.restore(scheduler, generators, components.dtype, placement)
            meter.notice(f"resumed after step {resume.done} of {resume.steps}")
        return denoise(
            transformer,
            scheduler,
            times,
            latents,
            states,
            inpaint,
            request.guidance,
            generators,
            placement,
            resume.done if resume else 0,
            partial(keeper.keep, len(times)) if keeper else None,
            partial(_show, run, preview) if preview and preview.shows else None,
        )


def _show(run: Run, preview: Preview, step: int, latents: Tensor) -> None:
    """Tell what the first clip looks like after a step."""
    pictures = run.placement.to_host(preview.pictures(latents[0]))
    with run.meter.host():
        webp = b64encode(film_strip(pictures)).decode("ascii")
    run.meter.tell(Previewed(run.meter.seconds, step, len(pictures), webp))


def _check(
    request: Request,
    settings: Settings,
    components: Components,
    initial_latents: Tensor | None,
    resume: Progress | None,
) -> None:
    if resume is not None:
        resume.check(request, components)
        if initial_latents is not None:
            raise BadInput("initial_latents", "noise", "nothing when a run is resumed")
    if components.device.type != "meta":  # a rehearsal is for another machine
        check_capacity(settings, machine_of(components.device))
    loaded = str(components.dtype).removeprefix("torch.")
    if settings.precision not in ("auto", loaded):
        raise BadInput(
            "precision", settings.precision, f"{loaded}, as the model was loaded; load it with these settings"
        )
    if settings.engine == "tuned":
        check_attention(settings.attention, components.device)


def _decode(
    run: Run, latents: Tensor, writers: list[VideoWriter], return_frames: bool, preview: Preview | None
) -> Tensor | None:
    """The frames if wanted; each chunk goes to its clip's writer while the next one decodes."""
    meter, done, total = run.meter, 0, run.request.frames * len(latents)
    clips: list[list[Tensor]] = []
    for number, clip in enumerate(latents / run.scaling_factor):
        clips.append([])
        for chunk in run.engine.vae().decode(clip[None]):
            on_host = run.placement.to_host(chunk)
            del chunk
            with meter.host():
                if writers:
                    writers[number].add(on_host)
                if return_frames:
                    clips[-1].append(unit_range(on_host))
                if preview and number == 0:
                    preview.watch(on_host, *clip.shape[-2:])
            done += on_host.shape[2]
            meter.frames_ready(done, total)
    with meter.host():
        return torch.cat([torch.cat(chunks, dim=1) for chunks in clips]) if return_frames else None


def _writers(run: Run, output_dir: str | Path | None) -> list[VideoWriter]:
    """One per clip, each with the preset that makes this clip alone."""
    if output_dir is None:
        return []
    writers, request = [], run.request
    for number, seed in enumerate(run.seeds):
        preset = Preset(
            name="made with this clip",
            model=run.components.name,
            settings=run.settings,
            request=PresetRequest.of(request.replace(seed=seed, num_clips=1)),
            loras={str(file): weight for file, weight in run.components.loras},
        )
        path = Path(output_dir) / (f"video-{number + 1}.mp4" if number else "video.mp4")
        size = request.width, request.height
        writers.append(VideoWriter(path, *size, request.fps, dump_preset(preset), run.settings.workers))
    return writers


@contextmanager
def _told(meter: Meter, settings: Settings, request: Request) -> Iterator[None]:
    """Tell how a run failed; an allocator's error becomes :class:`OutOfMemory`."""

    def held_bytes() -> int:
        return sum(cache.stage_peak_bytes for cache in meter.caches.values())

    try:
        with relieved(
            settings, request, lambda: meter.current_stage, held_bytes, partial(free_bytes, meter.device)
        ):
            yield
    except TunerError as error:
        suggestion = error.suggestion if isinstance(error, OutOfMemory) else {}
        meter.tell(Failed(meter.seconds, error.status, str(error), suggestion))
        raise
