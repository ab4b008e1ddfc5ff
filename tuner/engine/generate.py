"""One generation from request to clip: encode text, encode image, denoise, decode, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tuner.engine.cache import ConditionCache
from tuner.engine.denoise import denoise, make_scheduler
from tuner.engine.engines import ENGINES, Engine
from tuner.engine.pictures import digest, fitted_pictures, known_frames, mask_latents, masked_video
from tuner.engine.placement import Placement
from tuner.engine.text import encode_prompts
from tuner.engine.video import VideoWriter, unit_range
from tuner.errors import BadInput, OutOfMemory, TunerError
from tuner.meter.events import Failed, Finished, OnEvent
from tuner.meter.measured import Measured
from tuner.meter.meter import Meter
from tuner.models.components import Components
from tuner.presets import Preset, PresetRequest, dump_preset
from tuner.request import Request
from tuner.settings import Settings

_HOST_CACHE_BYTES = 256 * 1024**2
_GUIDED = 1.0


@dataclass(frozen=True)
class Result:
    """What a generation gives.

    Attributes:
        latents: ``[1, 16, t, h, w]`` after the last step, on the host.
        frames: float32 ``[1, T, H, W, 3]`` in 0..1 before 8-bit rounding, if asked for.
        video: Path of the mp4, if one was written.
        measured: What the run cost.
    """

    latents: Tensor
    frames: Tensor | None
    video: Path | None
    measured: Measured


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
) -> Result:
    """Make one clip.

    Args:
        request: What to make.
        settings: How to make it.
        components: The model, from :func:`tuner.load_model`; keeps what was encoded for the next run.
        on_event: Receives everything that happens (see :mod:`tuner.meter.events`).
        initial_latents: Noise ``[1, 16, t, h, w]`` before the scheduler's scaling; by default from the seed.
        return_frames: Also return the frames as floats.
        output_dir: Write ``video.mp4`` into this folder.
        should_stop: Asked between blocks, steps and chunks; True cancels the run.

    Raises:
        BadInput: The request or the settings do not suit the model.
        OutOfMemory: The device or the host ran out of memory.
        Cancelled: ``should_stop`` said so.
        TunerError: The clip could not be written.
    """
    meter = Meter(components.device, on_event, should_stop)
    with _told(meter), meter:
        _check(settings, components)
        placement = Placement(components.device, meter)
        engine: Engine = ENGINES[settings.engine](components, settings, placement)
        with meter.host():
            scheduler = make_scheduler(request.scheduler, components.scheduler_config, request.steps)
            generator = torch.Generator("cpu").manual_seed(request.seed)
            noise = _noise(request, components, generator, initial_latents)
        encoded = ConditionCache(_HOST_CACHE_BYTES, meter.caches["conditions"], components.encodings)

        with engine.resident():
            with meter.stage("encode text"):
                prompts = [request.negative_prompt] if request.guidance > _GUIDED else []
                states = encode_prompts([*prompts, request.prompt], components, placement, encoded, engine.encoder)
            with meter.stage("encode image"):
                inpaint = _inpaint_latents(request, settings, components, placement, engine, encoded, noise)
            with meter.stage("denoise"), engine.transformer() as transformer:
                latents = placement.to_device(noise * scheduler.init_noise_sigma)
                latents = denoise(
                    transformer, scheduler, latents, states, inpaint, request.guidance, generator, placement
                )
            del states, inpaint
            with _writer(request, settings, components, output_dir) as writer:
                with meter.stage("decode"):
                    kept, frames = _decode(
                        engine, latents, components, request.frames, placement, writer, return_frames
                    )
                    del latents
                if writer:
                    with meter.stage("write"):
                        writer.finish()

    measured, video = meter.measured(), writer.path if writer else None
    meter.tell(Finished(meter.seconds, dict(measured), str(video) if video else None))
    return Result(kept, frames, video, measured)


def _check(settings: Settings, components: Components) -> None:
    loaded = str(components.dtype).removeprefix("torch.")
    if settings.precision not in ("auto", loaded):
        raise BadInput(
            "precision", settings.precision, f"{loaded}, as the model was loaded; load it with these settings"
        )


def _noise(request: Request, components: Components, generator: torch.Generator, given: Tensor | None) -> Tensor:
    """The starting noise ``[1, 16, t, h, w]`` on the host, before the scheduler's scaling."""
    vae = components.vae
    shape = (
        1,
        vae.config["latent_channels"],
        (request.frames - 1) // vae.temporal_compression_ratio + 1,
        request.height // vae.spatial_compression_ratio,
        request.width // vae.spatial_compression_ratio,
    )
    if given is None:
        return torch.randn(shape, generator=generator).to(components.dtype)
    if tuple(given.shape) != shape:
        raise BadInput("initial_latents", list(given.shape), f"a tensor of shape {list(shape)}")
    return given.to("cpu", components.dtype)


def _inpaint_latents(
    request: Request,
    settings: Settings,
    components: Components,
    placement: Placement,
    engine: Engine,
    encoded: ConditionCache,
    noise: Tensor,
) -> Tensor:
    """Mask and masked video for the transformer, ``[1, 17, t, h, w]`` on the device; zeros for text-to-video."""
    meter, vae = placement.meter, components.vae
    pictures = fitted_pictures(request, settings.workers)
    if not pictures:
        _, channels, *size = noise.shape
        return torch.zeros(1, channels + 1, *size, dtype=noise.dtype, device=placement.device)

    def make() -> tuple[Tensor]:
        with meter.host():
            generator = torch.Generator("cpu").manual_seed(request.seed)
            strength = request.noise_aug_strength
            video = masked_video(pictures, request.frames, strength, generator, noise.dtype)
        return (placement.to_host(engine.vae().encode(video) * vae.config["scaling_factor"]),)

    what = (
        digest(pictures),
        request.frames,
        request.noise_aug_strength,
        request.noise_aug_strength and request.seed,
    )
    how = (settings.engine, settings.layout, settings.chunk_size)
    (latents,) = encoded.get(("pictures", what, how), make)
    with meter.host():
        known = known_frames(pictures, request.frames)
        mask = mask_latents(known, latents.shape, vae.config["scaling_factor"]).to(latents.dtype)
        inpaint = torch.cat([mask, latents], dim=1)
    return placement.to_device(inpaint)


def _decode(
    engine: Engine,
    latents: Tensor,
    components: Components,
    total: int,
    placement: Placement,
    writer: VideoWriter | None,
    return_frames: bool,
) -> tuple[Tensor, Tensor | None]:
    """Latents on the host, and the frames if wanted; each chunk goes to the writer while the next one decodes."""
    meter, done, frames = placement.meter, 0, []
    kept = placement.to_host(latents)
    for chunk in engine.vae().decode(latents / components.vae.config["scaling_factor"]):
        on_host = placement.to_host(chunk)
        del chunk
        with meter.host():
            if writer:
                writer.add(on_host)
            if return_frames:
                frames.append(unit_range(on_host))
        done += on_host.shape[2]
        meter.frames_ready(done, total)
    with meter.host():
        return kept, torch.cat(frames, dim=1) if frames else None


def _writer(
    request: Request, settings: Settings, components: Components, output_dir: str | Path | None
) -> AbstractContextManager[VideoWriter | None]:
    if output_dir is None:
        return nullcontext()
    preset = Preset(
        name="made with this clip",
        model=components.name,
        settings=settings,
        request=PresetRequest.of(request),
    )
    path = Path(output_dir) / "video.mp4"
    return VideoWriter(path, request.width, request.height, request.fps, dump_preset(preset), settings.workers)


@contextmanager
def _told(meter: Meter) -> Iterator[None]:
    """Tell how a run failed; an allocator's error becomes :class:`OutOfMemory`."""
    try:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else "the host has no more"
            raise OutOfMemory(
                f"out of memory in stage {meter.current_stage}: {reason}; "
                "lower chunk_size, batch_size, token_chunk or cache_capacity, or make a smaller clip"
            ) from error
    except TunerError as error:
        meter.tell(Failed(meter.seconds, error.status, str(error)))
        raise


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator has no error class of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
