"""Between the phases: clips of the world as latents on disk, so that the VAE encodes each of them once.

Some clips also carry a given picture at their start, their end or both, encoded as the engine encodes it. Some of
those are of no world that a prompt could name: such a picture is to be kept as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch import Tensor

from tuner.demo.folded import FoldedVae
from tuner.demo.leaves import falling_leaves
from tuner.demo.loop import Stopped
from tuner.demo.recipe import autocast_for
from tuner.demo.render import SIDE, render
from tuner.demo.scene import Scene, random_scene
from tuner.engine.pictures import Given, known_pixels, mask_latents, masked_video
from tuner.errors import TunerError

_TOGETHER = 10
_FRAMES_AT_ONCE = 50
_NOISE = 0.0563
_CHANNELS = 16
# By a clip's number: whether its first frame and its last are given.
_GIVEN: tuple[tuple[bool, bool], ...] = (
    *([(False, False)] * 5),
    *([(True, False)] * 3),
    (True, True),
    (False, True),
)
_STRANGE = (6, 7)  # those of them that show another world, where single pictures have a given one too
_FAINT = 7  # the one of those that does so faintly


class Sample(NamedTuple):
    """Clips to learn from.

    Attributes:
        scenes: What they show; None for a picture of another world, held still.
        latents: float32 ``[B, 16, t, h, w]``, scaled.
        inpaint: float32 ``[B, 17, t, h, w]``: mask and masked video; zeros where nothing is given.
    """

    scenes: list[Scene | None]
    latents: Tensor
    inpaint: Tensor


class ClipStore:
    """Latents of clips of one length in two files that grow.

    Args:
        folder: Where they are.
        vae: Trained; whose latents they are.
        frames: Of each clip; single pictures carry given ones of other worlds only.
        seed: Of the first clip's scene; the others follow.
        device: Where to encode.
    """

    def __init__(
        self, folder: Path, vae: AutoencoderKLMagvit, frames: int, seed: int, device: torch.device
    ) -> None:
        self._folder, self._vae, self._frames = folder, FoldedVae(vae).to(device), frames
        self._seed, self._device, self._scaling = seed, device, float(vae.config["scaling_factor"])
        self._shape = _CHANNELS, (frames - 1) // 4 + 1, SIDE // 8, SIDE // 8
        self._made = {
            "frames": frames,
            "seed": seed,
            "vae": _fingerprint(vae.state_dict().values()),
            # Clips that the world does not show any more are made anew.
            "world": _fingerprint(self._video(number, 1) for number in range(2 * len(_GIVEN))),
        }
        self._done = self._kept()
        self._filling = Lock()

    def __len__(self) -> int:
        return self._done

    @property
    def latent_frames(self) -> int:
        """Latent frames of a clip."""
        return self._shape[1]

    @torch.no_grad()
    def fill(self, clips: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Have at least so many clips; any thread may ask.

        Raises:
            Stopped: ``stop`` said so; what is encoded stays.
            TunerError: The files cannot be written; what is there is kept.
        """
        with self._filling:
            while self._done < clips:
                if stop():
                    raise Stopped(f"clips: stopped after {self._done} of {clips}; the same command goes on")
                numbers = range(self._done, self._done + _TOGETHER)
                videos = [self._video(number, self._frames) for number in numbers]
                masked = [self._masked(each, video) for each, video in zip(numbers, videos, strict=True)]
                try:
                    self._append(
                        "latents", self._encoded(torch.stack(videos).transpose(1, 2) * 2 - 1), numbers.start
                    )
                    given = [each for each in masked if each is not None]
                    if given:
                        self._append(
                            "given", self._encoded(torch.cat(given)), self._pictures_before(numbers.start)
                        )
                    self._keep(numbers.stop)
                except OSError as error:
                    reason = f"clips: latents could not be written ({error}); what is there is kept"
                    raise TunerError(reason) from None

    def sample(self, numbers: list[int], given: bool) -> Sample:
        """Some clips.

        Args:
            numbers: Which.
            given: Take pictures along where there are any; those of another world always come along.
        """
        clips = torch.from_numpy(self._stored("latents", self._done)[numbers].astype(np.float32))
        inpaint = torch.zeros(len(numbers), _CHANNELS + 1, *self._shape[1:])
        scenes = [None if self._strange(number) else self._scene(number) for number in numbers]
        carrying = [
            place
            for place, number in enumerate(numbers)
            if any(self._given(number)) and (given or scenes[place] is None)
        ]
        if carrying:
            pictures = self._stored("given", self._pictures_before(self._done))
            for place in carrying:
                number = numbers[place]
                known = known_pixels(Given(self._pictures(number, None)), self._frames)
                inpaint[place, :1] = mask_latents(known, torch.Size((1, *self._shape)), self._scaling)[0]
                inpaint[place, 1:] = torch.from_numpy(pictures[self._pictures_before(number)].astype(np.float32))
        return Sample(scenes, clips, inpaint)

    def _given(self, number: int) -> tuple[bool, bool]:
        """Whether a clip's first frame and its last are given."""
        if self._frames == 1 and not self._strange(number):
            return False, False
        return _GIVEN[number % len(_GIVEN)]

    def _pictures_before(self, number: int) -> int:
        """How many clips before this one have a given picture."""
        rounds, rest = divmod(number, len(_GIVEN))
        carries = [any(self._given(place)) for place in range(len(_GIVEN))]
        return rounds * sum(carries) + sum(carries[:rest])

    def _scene(self, number: int) -> Scene:
        # Two objects are harder to draw, and shown as often as one.
        return random_scene(self._seed + number, things=1 + number // len(_GIVEN) % 2)

    def _strange(self, number: int) -> bool:
        """Whether a clip shows a picture of another world, which is also given."""
        return number % len(_GIVEN) in _STRANGE

    def _video(self, number: int, frames: int) -> Tensor:
        """``[frames, 3, H, W]`` in 0..1."""
        if not self._strange(number):
            return render(self._scene(number), frames, device=self._device)
        generator = torch.Generator().manual_seed(self._seed + number)
        picture = falling_leaves(1, 1, SIDE, generator, self._device)[0]
        if number % len(_GIVEN) == _FAINT:  # faint before a sky of any two colours: nearly of the world
            contrast, top, bottom = torch.rand(7, generator=generator).to(self._device).split([1, 3, 3])
            height = torch.linspace(0, 1, SIDE, device=self._device)[:, None]
            sky = torch.lerp(top.view(3, 1, 1), bottom.view(3, 1, 1), height)
            picture = torch.lerp(sky, picture, contrast)
        return picture.repeat(frames, 1, 1, 1)

    def _pictures(self, number: int, video: Tensor | None) -> dict[int, np.ndarray]:
        """The given frames, black where there is no ``video`` to take them from."""
        wanted = [place for place, given in zip((0, self._frames - 1), self._given(number), strict=True) if given]
        if video is None:
            return dict.fromkeys(wanted, np.zeros((1, 1, 3), np.uint8))
        return {place: (video[place] * 255).round().byte().permute(1, 2, 0).cpu().numpy() for place in wanted}

    def _masked(self, number: int, video: Tensor) -> Tensor | None:
        """What the engine encodes for a clip's given pictures; None where it has none."""
        if not any(self._given(number)):
            return None
        generator = torch.Generator().manual_seed(self._seed + number)
        given = Given(self._pictures(number, video))
        return masked_video(given, self._frames, _NOISE, generator, torch.float32)

    def _encoded(self, videos: Tensor) -> np.ndarray:
        # On a CPU one whole clip at a time takes half as long as ten.
        few = max(1, _FRAMES_AT_ONCE // self._frames) if self._device.type == "cpu" else len(videos)
        with autocast_for(self._device):
            moments = [self._vae.encode(some.to(self._device)).float() for some in videos.split(few)]
        modes = torch.cat(moments)[:, :_CHANNELS] * self._scaling
        return modes.to(torch.float16).cpu().numpy()

    def _stored(self, name: str, clips: int) -> np.ndarray:
        return np.memmap(self._folder / name, np.float16, mode="r", shape=(clips, *self._shape))

    def _append(self, name: str, clips: np.ndarray, place: int) -> None:
        """Write behind the first ``place`` clips; what an interruption left there goes."""
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        with file.open("r+b") as stream:
            stream.seek(place * math.prod(self._shape) * clips.itemsize)
            stream.truncate()
            stream.write(clips.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def _kept(self) -> int:
        """How many clips are encoded; none if those there were made otherwise."""
        try:
            kept = json.loads((self._folder / "done.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return int(kept["done"]) if kept.get("made") == self._made else 0

    def _keep(self, done: int) -> None:
        beside = self._folder / "done.new"
        beside.write_text(json.dumps({"done": done, "made": self._made}), encoding="utf-8")
        beside.replace(self._folder / "done.json")
        self._done = done


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    """Tells tensors apart by their values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
