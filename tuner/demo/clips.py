"""Between the phases: clips of the world as latents on disk, so that the transformer never waits for the VAE.

Some clips also carry a given picture at their start, their end or both, encoded as the engine encodes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch import Tensor

from tuner.demo.folded import FoldedVae
from tuner.demo.loop import Stopped
from tuner.demo.recipe import autocast_for
from tuner.demo.render import SIDE, render
from tuner.demo.scene import Scene, random_scene
from tuner.engine.pictures import Given, known_pixels, mask_latents, masked_video
from tuner.errors import TunerError

_TOGETHER = 8
_NOISE = 0.0563
_CHANNELS = 16
_GIVEN: tuple[tuple[bool, bool], ...] = (
    *([(False, False)] * 5),
    *([(True, False)] * 3),
    (True, True),
    (False, True),
)


class Sample(NamedTuple):
    """Clips to learn from.

    Attributes:
        scenes: What they show.
        latents: float32 ``[B, 16, t, h, w]``, scaled.
        inpaint: float32 ``[B, 17, t, h, w]``: mask and masked video; zeros where nothing is given.
    """

    scenes: list[Scene]
    latents: Tensor
    inpaint: Tensor


class ClipStore:
    """Latents of clips in two memory-mapped files.

    Args:
        folder: Where they are.
        clips: How many.
        frames: Of each.
        seed: Of the first clip's scene; the others follow.
        scaling_factor: The VAE's.
    """

    def __init__(self, folder: Path, clips: int, frames: int, seed: int, scaling_factor: float) -> None:
        self._folder, self._clips, self._frames = folder, clips, frames
        self._seed, self._scaling = seed, scaling_factor
        self._shape = _CHANNELS, (frames - 1) // 4 + 1, SIDE // 8, SIDE // 8

    def __len__(self) -> int:
        return self._clips

    @property
    def latent_frames(self) -> int:
        """Latent frames of a clip."""
        return self._shape[1]

    @torch.no_grad()
    def fill(
        self, vae: AutoencoderKLMagvit, device: torch.device, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Encode what is not there yet.

        Raises:
            Stopped: ``stop`` said so; what is encoded stays.
            TunerError: The files cannot be written.
        """
        folded = FoldedVae(vae).to(device)
        try:
            latents, given = (self._open("r+" if self._done() else "w+", name) for name in ("latents", "given"))
            for start in range(self._done(), self._clips, _TOGETHER):
                if stop():
                    raise Stopped(f"clips: stopped after {start} of {self._clips}; the same command goes on")
                numbers = range(start, min(start + _TOGETHER, self._clips))
                videos = [render(self._scene(number), self._frames, device=device) for number in numbers]
                latents[start : numbers.stop] = self._encoded(folded, torch.stack(videos).transpose(1, 2) * 2 - 1)
                pictures = [number for number in numbers if any(self._kind(number))]
                if pictures:
                    masked = [self._masked(number, videos[number - start]) for number in pictures]
                    given[pictures] = self._encoded(folded, torch.cat(masked).to(device))
                latents.flush()
                given.flush()
                self._keep_done(numbers.stop)
        except (OSError, ValueError) as error:
            raise TunerError(f"clips: latents could not be written ({error}); what is there is kept") from None

    def sample(self, numbers: list[int], latent_frames: int, given: bool) -> Sample:
        """Some clips up to a length.

        Args:
            numbers: Which.
            latent_frames: The first so many.
            given: Take pictures along where there are any; those at the end only with whole clips.
        """
        latents, pictures = self._open("r", "latents"), self._open("r", "given")
        size = len(numbers), _CHANNELS + 1, latent_frames, *self._shape[2:]
        inpaint = torch.zeros(size)
        for place, number in enumerate(numbers):
            first, last = self._kind(number)
            if not given or not (first or last) or (last and latent_frames < self.latent_frames):
                continue
            known = known_pixels(Given(self._pictures(number, None)), self._frames)
            mask = mask_latents(known, torch.Size((1, *self._shape)), self._scaling)
            inpaint[place, :1] = mask[0, :, :latent_frames]
            inpaint[place, 1:] = torch.from_numpy(pictures[number, :, :latent_frames].astype(np.float32))
        clips = torch.from_numpy(latents[numbers, :, :latent_frames].astype(np.float32))
        return Sample([self._scene(number) for number in numbers], clips, inpaint)

    def _scene(self, number: int) -> Scene:
        return random_scene(self._seed + number)

    def _kind(self, number: int) -> tuple[bool, bool]:
        """Whether a clip's first and last frames are given."""
        return _GIVEN[number % len(_GIVEN)]

    def _pictures(self, number: int, video: Tensor | None) -> dict[int, np.ndarray]:
        """The given frames, black where there is no ``video`` to take them from."""
        wanted = [place for place, given in zip((0, self._frames - 1), self._kind(number), strict=True) if given]
        if video is None:
            return dict.fromkeys(wanted, np.zeros((1, 1, 3), np.uint8))
        return {place: (video[place] * 255).round().byte().permute(1, 2, 0).cpu().numpy() for place in wanted}

    def _masked(self, number: int, video: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed + number)
        given = Given(self._pictures(number, video))
        return masked_video(given, self._frames, _NOISE, generator, torch.float32)

    def _encoded(self, folded: FoldedVae, videos: Tensor) -> np.ndarray:
        with autocast_for(videos.device):
            modes = folded.encode(videos).float()[:, :_CHANNELS] * self._scaling
        return modes.to(torch.float16).cpu().numpy()

    def _open(self, mode: str, name: str) -> np.memmap:
        file = self._folder / f"{name}.npy"
        if mode == "w+":
            file.parent.mkdir(parents=True, exist_ok=True)
            shape = self._clips, *self._shape
            return np.lib.format.open_memmap(file, mode=mode, dtype=np.float16, shape=shape)
        return np.lib.format.open_memmap(file, mode=mode)  # type: ignore[call-overload]

    def _done(self) -> int:
        """How many clips are encoded; none if those there were made otherwise."""
        try:
            kept = json.loads((self._folder / "done.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return int(kept["done"]) if kept.get("made") == self._made() else 0

    def _keep_done(self, done: int) -> None:
        beside = self._folder / "done.new"
        beside.write_text(json.dumps({"done": done, "made": self._made()}), encoding="utf-8")
        beside.replace(self._folder / "done.json")

    def _made(self) -> list[int]:
        return [self._clips, self._frames, self._seed]
