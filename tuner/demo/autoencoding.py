"""First phase: the autoencoder learns to give back the world's clips, and pictures of any other."""

from __future__ import annotations

import random
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from torch import Tensor, nn

from tuner.demo.folded import FoldedVae
from tuner.demo.leaves import falling_leaves
from tuner.demo.recipe import Recipe, autocast_for
from tuner.demo.render import SIDE, render
from tuner.demo.scene import random_scene

FIRST_TRAINING_SEED = 0
# What part of pictures and of clips shows another world.
_OTHER_WORLDS = (0.4, 0.2)
_CROP = 64
_MEASURED_FRAMES = 17
_NEAR_NORMAL = 5e-5
_FIRST_LOGVAR = -6.0
_LEAST_NOISE = 0.08
_SQUARES = 8.0
_MOVING = 4.0
# By how far training is: how often a batch shows cropped pictures, cropped clips, whole pictures and whole clips.
# A picture costs a thirtieth of what a clip of it does.
_SHOWN = ((0.09, (1.0, 0.0, 0.0, 0.0)), (0.175, (0.3, 0.7, 0.0, 0.0)), (1.0, (0.08, 0.4, 0.12, 0.4)))
_FEWER = (1, 4, 4, 8)
_SCENES = 2**30


class Autoencoding:
    """Trains a VAE: crops of pictures, then of clips, then whole ones, so that its norms see what they will see.

    Args:
        vae: Changed in place.
        recipe: How much.
        device: Where to compute; the VAE is moved there.
        seed: Of the clips and of the noise.
    """

    name = "vae"

    def __init__(self, vae: AutoencoderKLMagvit, recipe: Recipe, device: torch.device, seed: int) -> None:
        with torch.no_grad():  # at first hardly any noise, so that there is something to learn from
            vae.quant_conv.bias[vae.config["latent_channels"] :] = _FIRST_LOGVAR  # type: ignore[index]
        self.model: nn.Module = FoldedVae(vae).to(device)
        self.rate = recipe.vae_rate
        self._pictures, self._frames, self._parts = recipe.vae_pictures, recipe.vae_frames, recipe.parts
        self._device, self._seed = device, seed

    def batch(self, step: int, steps: int) -> tuple[Tensor, Tensor, int]:
        """Clips ``[B, 3, T, side, side]`` in -1..1, noise for their latents, and how many show the world."""
        often = next(often for until, often in _SHOWN if step / steps < until)
        # The same for all parts of a step, so that no core waits for another.
        kind = random.Random(f"{self._seed} kind {step // self._parts}").choices(range(len(_FEWER)), often)[0]
        chosen = random.Random(f"{self._seed} {step}")
        generator = torch.Generator().manual_seed(chosen.randrange(2**62))
        video, worlds = self._videos(kind, chosen, generator)
        clips, _, frames, height, width = video.shape
        noise = torch.randn(clips, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=generator)
        return video, noise.to(self._device), worlds

    def losses(self, batch: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
        """Distance of what comes back, and of the posterior from a normal distribution; ``psnr`` of the world."""
        video, noise, worlds = batch
        model: Any = self.model
        with autocast_for(self._device):
            mean, logvar = model.encode(video).float().chunk(2, dim=1)
            logvar = logvar.clamp(-30, 20)
            # The transformer will not be exact: what the decoder needs must stand out from that much noise.
            least = _LEAST_NOISE * mean.detach().std()
            back = model.decode(mean + (logvar.exp() + least.square()).sqrt() * noise).float()
        away = back - video
        errors = away.square().mean((1, 2, 3, 4))
        normal = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        # Objects that pass by are few pixels of few frames: what differs from the clip's mean counts for more.
        weight = 1 + _MOVING * (video - video.mean(2, keepdim=True)).abs().amax(1, keepdim=True)
        weight = weight / weight.mean()
        wrong = (weight * (away.abs() + _SQUARES * away.square())).mean()
        loss = wrong + _NEAR_NORMAL * normal
        shown = errors.detach()[:worlds] if worlds else errors.detach()
        psnr = -10 * torch.log10(shown / 4)
        return {"loss": loss, "psnr": psnr.mean(), "kl": normal.detach()}

    def _videos(self, kind: int, chosen: random.Random, generator: torch.Generator) -> tuple[Tensor, int]:
        """``[B, 3, T, side, side]`` in -1..1, the world first, and how many show it."""
        side, frames = (_CROP, SIDE)[kind // 2], (1, self._frames)[kind % 2]
        count = max(1, self._pictures // _FEWER[kind])
        others = sum(chosen.random() < _OTHER_WORLDS[kind % 2] for _ in range(count))
        clips = [self._clip(chosen, frames, side) for _ in range(count - others)]
        if others:
            clips += falling_leaves(others, frames, side, generator, self._device).unbind(0)
        return torch.stack(clips).transpose(1, 2) * 2 - 1, count - others

    def _clip(self, chosen: random.Random, frames: int, side: int) -> Tensor:
        scene = random_scene(FIRST_TRAINING_SEED + chosen.randrange(_SCENES))
        clip = render(scene, frames, start=chosen.randrange(33), device=self._device)
        # Half of the crops are taken around an object: that is where the edges are.
        middle = scene.things[0].x, scene.things[0].y
        left, top = (
            min(max(0, int(place * SIDE) - side // 2 + chosen.randint(-12, 12)), SIDE - side) for place in middle
        )
        if chosen.random() < 0.5:
            left, top = chosen.randint(0, SIDE - side), chosen.randint(0, SIDE - side)
        return clip[:, :, top : top + side, left : left + side]


@torch.no_grad()
def standardise(vae: AutoencoderKLMagvit, seed: int, device: torch.device, clips: int) -> None:
    """Give every latent channel mean 0 and, once scaled, variance 1, without changing what is decoded.

    The point-wise convolutions at both ends of the latents take it up exactly.

    Args:
        vae: Trained; changed in place.
        seed: Of the clips to measure on.
        device: Where to compute.
        clips: How many to measure on.
    """
    folded = FoldedVae(vae).to(device)
    means, squares = [], []
    for clip in range(clips):
        video = render(random_scene(seed + clip), _MEASURED_FRAMES, device=device).transpose(0, 1)[None] * 2 - 1
        mean, logvar = folded.encode(video).float().chunk(2, dim=1)
        means.append(mean.mean((0, 2, 3, 4)))
        squares.append((mean.square() + logvar.exp()).mean((0, 2, 3, 4)))
    middle = torch.stack(means).mean(0)
    spread = (torch.stack(squares).mean(0) - middle.square()).clamp_min(1e-8).sqrt()
    scale = spread * vae.config["scaling_factor"]
    inward: Any = vae.quant_conv
    outward: Any = vae.post_quant_conv
    channels = len(middle)
    outward.bias += outward.weight[:, :, 0, 0, 0] @ middle
    outward.weight *= scale[None, :, None, None, None]
    inward.weight[:channels] /= scale[:, None, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - middle) / scale
    inward.bias[channels:] -= 2 * scale.log()
