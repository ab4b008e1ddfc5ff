"""Train the demo model, from nothing to a checkpoint folder.

    python -m tuner.demo.train WORK --out assets/demo [--minutes 240] [--stop-after 9] [--device cuda]

WORK keeps checkpoints, latents and curves: interrupted at any point, the same command goes on. The autoencoder is
trained first, then the text encoders learn to read prompts, then the transformer learns from clips.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM, signal
from threading import Event

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch.nn import functional

from tuner.demo.autoencoding import Autoencoding, standardise
from tuner.demo.checkpoint import Modules, random_modules, write_demo, write_tokenizers
from tuner.demo.clips import ClipStore
from tuner.demo.denoising import Denoising, shown_at
from tuner.demo.folded import FoldedVae
from tuner.demo.loop import Plan, train
from tuner.demo.reading import Reading
from tuner.demo.recipe import Recipe, recipe_for
from tuner.demo.render import render
from tuner.demo.scene import random_scene
from tuner.engine.heap import kept_heap
from tuner.engine.preview import ColourFit, LatentColours, averaged_over_time
from tuner.errors import TunerError
from tuner.models.load import load_tokenizers

SEED = 20241122
_CLIPS_SEED = 2**32
_PREVIEW_FRAMES = 9


def train_demo(
    work: Path,
    out: Path,
    recipe: Recipe,
    device: torch.device,
    *,
    minutes: float = 0.0,
    seed: int = SEED,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train everything that is not trained yet, and write the checkpoint.

    Args:
        work: Folder of checkpoints, latents and curves.
        out: Folder of the model.
        recipe: How much.
        device: Where to compute.
        minutes: About how long all of it may take; 0 takes the recipe's steps.
        seed: Of everything random.
        stop: Asked between steps; true interrupts.

    Raises:
        TunerError: Interrupted, or something could not be written; the same call goes on from there.
    """
    modules = random_modules(seed)
    plan = Plan(work, recipe.vae_steps, minutes * recipe.vae_share, recipe.parts, stop=stop)
    average = train(Autoencoding(modules.vae, recipe, device, seed), plan)
    modules.vae.load_state_dict(average.vae.state_dict())  # type: ignore[union-attr]
    standardise(modules.vae, _CLIPS_SEED, device, recipe.measured)
    colours = _fit_colours(modules.vae, device, recipe.measured)
    clips = [
        ClipStore(work / f"clips-{frames}", modules.vae, frames, _CLIPS_SEED + frames * 2**33, device)
        for frames in recipe.frames
    ]
    for store, count in zip(clips, recipe.clips, strict=True):
        store.fill(shown_at(0.0, count), stop)
    write_tokenizers(work)
    tokenizers = load_tokenizers(work, "v5")
    plan = Plan(work, recipe.reading_steps, parts=recipe.parts, stop=stop)
    reader = train(Reading(modules, tokenizers, recipe, device, seed), plan)
    modules.text_encoder.load_state_dict(reader.text_encoder.state_dict())  # type: ignore[union-attr]
    modules.text_encoder_2.load_state_dict(reader.text_encoder_2.state_dict())  # type: ignore[union-attr]
    plan = Plan(work, recipe.steps, minutes * (1 - recipe.vae_share), recipe.parts, stop=stop)
    denoiser = train(Denoising(modules, tokenizers, clips, recipe, device, seed), plan)
    trained: Modules = Modules(
        transformer=denoiser.transformer,  # type: ignore[arg-type]
        vae=modules.vae,
        text_encoder=denoiser.text_encoder,  # type: ignore[arg-type]
        text_encoder_2=denoiser.text_encoder_2,  # type: ignore[arg-type]
    )
    _write(out, trained, colours)


@torch.no_grad()
def _fit_colours(vae: AutoencoderKLMagvit, device: torch.device, clips: int) -> LatentColours:
    """The live preview's map, from clips of the world."""
    folded, fit = FoldedVae(vae).to(device), ColourFit()
    for number in range(clips):
        frames = render(random_scene(_CLIPS_SEED + number), _PREVIEW_FRAMES) * 2 - 1
        video = frames.transpose(0, 1)[None].to(device)
        latents = folded.encode(video).chunk(2, dim=1)[0][0].float().cpu() * vae.config["scaling_factor"]
        small = functional.adaptive_avg_pool2d(frames, latents.shape[-2:]).transpose(0, 1)
        fit.add(latents, averaged_over_time(small))
    colours = fit.solve()
    assert colours is not None, "no clips to fit"
    return colours


def _write(out: Path, modules: Modules, colours: LatentColours) -> None:
    """Write the model beside its place first: a full disk leaves what was there."""
    beside = out.with_name(f"{out.name}.new")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        write_demo(beside, modules)
        colours.save(beside / "vae")
        for part in beside.iterdir():
            if part.is_dir():
                shutil.copytree(part, out / part.name, dirs_exist_ok=True)
            else:
                out.mkdir(parents=True, exist_ok=True)
                shutil.copy2(part, out / part.name)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise TunerError(f"{out}: the model could not be written ({error}); its checkpoints are kept") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description="Train the demo model; run again to go on.")
    parser.add_argument("work", type=Path, help="folder of checkpoints, latents and curves")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--minutes", type=float, default=0.0, help="about how long it may take")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="minutes after which to interrupt it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    end = time.monotonic() + 60 * given.stop_after
    asked = Event()
    signal(SIGTERM, lambda *_: asked.set())
    try:
        with kept_heap(device):
            train_demo(
                given.work,
                given.out,
                recipe_for(device),
                device,
                minutes=given.minutes,
                seed=given.seed,
                stop=lambda: asked.is_set() or time.monotonic() > end,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except TunerError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
