"""Last phase: the transformer learns to denoise latents of the world's clips.

Short clips first, whole ones towards the end: what a prompt names shows in a single frame, how it moves in a few.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tuner.demo.checkpoint import SCHEDULER, Modules
from tuner.demo.clips import ClipStore
from tuner.demo.prompts import LANGUAGES, write_prompt
from tuner.demo.recipe import Recipe, autocast_for
from tuner.demo.render import places
from tuner.demo.scene import SETTINGS, STYLES, Scene, random_scene
from tuner.demo.tokenizers import Tokens
from tuner.models.attention import use_original_attention

_NO_PROMPT = 0.1
_NO_PICTURES = 0.3
_OTHER_SKY = 0.3
_TOWARDS_NOISE = 0.5
_ALL_NOISE = 0.04
_TEXT_TOKENS = 96
_PATCHES = 64
_OBJECTS, _MOVING = 4.0, 8.0
_OTHER_WORLDS = 4.0
_TEXTURED = 3.0
_FIRST_CLIPS, _ALL_CLIPS_AT = 0.04, 0.5
# By how far training is: how often pictures, short clips and whole clips are shown.
_LENGTHS = ((0.25, (0.75, 0.17, 0.08)), (0.6, (0.25, 0.5, 0.25)), (1.0, (0.1, 0.3, 0.6)))


class Noised(NamedTuple):
    """A batch of clips.

    Attributes:
        noisy: ``[B, 16, t, h, w]``, scaled latents and noise as mixed at ``times``.
        times: Timesteps ``[B]``.
        ids: BERT's tokens ``[B, L]``.
        ids_t5: T5's tokens ``[B, L2]``.
        inpaint: Mask and masked video ``[B, 17, t, h, w]``.
        velocity: What is to be predicted, ``[B, 16, t, h, w]``.
        mostly_noise: Where more than half is noise, bool ``[B]``.
        weight: What each place counts for, ``[B, 1, t, h, w]``; 1 on average where a clip shows the demo's world
            before a sky without texture.
    """

    noisy: Tensor
    times: Tensor
    ids: Tensor
    ids_t5: Tensor
    inpaint: Tensor
    velocity: Tensor
    mostly_noise: Tensor
    weight: Tensor


def shown_at(progress: float, clips: int) -> int:
    """From how many of all ``clips`` batches are drawn: ever more, so that training need not wait for the last."""
    return math.ceil(clips * min(1.0, _FIRST_CLIPS + (1 - _FIRST_CLIPS) * progress / _ALL_CLIPS_AT))


class Denoiser(nn.Module):
    """The transformer, and the text encoders as they are."""

    def __init__(self, modules: Modules) -> None:
        super().__init__()
        self.transformer: Any = modules.transformer
        self.text_encoder: Any = modules.text_encoder.requires_grad_(False)
        self.text_encoder_2: Any = modules.text_encoder_2.requires_grad_(False)
        use_original_attention(modules.transformer)

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor, ids_t5: Tensor, inpaint: Tensor) -> Tensor:
        """The velocity of ``noisy`` ``[B, 16, t, h, w]``, likewise."""
        text, text_t5 = self.text_encoder(input_ids=ids)[0], self.text_encoder_2(input_ids=ids_t5)[0]
        with _WrittenOutAttention() if noisy.device.type == "cpu" else nullcontext():
            return self.transformer(
                noisy,
                times,
                encoder_hidden_states=text,
                encoder_hidden_states_t5=text_t5,
                inpaint_latents=inpaint,
                return_dict=False,
            )[0]


class _WrittenOutAttention(TorchFunctionMode):
    """Attention as two products and a softmax, in 16 bits where autocasting.

    Forwards and backwards together that takes a fifth (160 tokens) to three fifths (928) of the time of torch's
    fused kernel on a CPU with bfloat16.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        if torch.is_autocast_enabled("cpu"):
            args = tuple(part.to(torch.get_autocast_dtype("cpu")) for part in args)
        query, key, value = args
        with torch.autocast("cpu", enabled=False):
            scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
            return scores.softmax(-1) @ value


class Denoising:
    """Trains the transformer on stored clips, by prompts that the text encoders have learnt to read.

    Args:
        modules: The transformer is changed in place.
        tokenizers: BERT's and T5's.
        clips: By length, shortest first; filled as training goes on.
        recipe: How much.
        device: Where to compute; the modules are moved there.
        seed: Of everything drawn.
    """

    name = "transformer"

    def __init__(
        self,
        modules: Modules,
        tokenizers: list[Any],
        clips: Sequence[ClipStore],
        recipe: Recipe,
        device: torch.device,
        seed: int,
    ) -> None:
        _begin(modules.transformer)
        self.model: nn.Module = Denoiser(modules).to(device)
        self.rate = recipe.rate
        self._tokens_of, self._clips = Tokens(tokenizers), clips
        self._tokens, self._counts, self._parts = recipe.tokens, recipe.clips, recipe.parts
        self._device, self._seed = device, seed
        scheduler: Any = DDIMScheduler.from_config(SCHEDULER)
        self._kept: Tensor = scheduler.alphas_cumprod

    def batch(self, step: int, steps: int) -> Noised:
        """Clips of one length, noised, with prompts and pictures."""
        chosen = random.Random(f"{self._seed} {step}")
        generator = torch.Generator().manual_seed(chosen.randrange(2**62))
        # The same for all parts of a step, so that no core waits for another.
        lengths = random.Random(f"{self._seed} length {step // self._parts}")
        weights = next(weights for until, weights in _LENGTHS if step / steps < until)
        length = lengths.choices(range(len(self._clips)), weights)[0]
        clips, shown = self._clips[length], shown_at(step / steps, self._counts[length])
        count = max(2, self._tokens // (clips.latent_frames * _PATCHES + _TEXT_TOKENS))
        clips.fill(shown)
        numbers = [chosen.randrange(shown) for _ in range(count)]
        sample = clips.sample(numbers, given=chosen.random() > _NO_PICTURES)
        starts = sample.inpaint[:, 0, 0].flatten(1).any(1).tolist()
        prompts = [_prompt(scene, start, chosen) for scene, start in zip(sample.scenes, starts, strict=True)]
        times = self._times(count, generator)
        noise = torch.randn(sample.latents.shape, generator=generator)
        kept = self._kept[times].view(-1, 1, 1, 1, 1)
        noisy = kept.sqrt() * sample.latents + (1 - kept).sqrt() * noise
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * sample.latents
        ids, ids_t5 = self._tokens_of(prompts)
        weight = torch.stack([_weight(scene, sample.latents.shape[2:]) for scene in sample.scenes])[:, None]
        return Noised(noisy, times, ids, ids_t5, sample.inpaint, velocity, kept.flatten() < 0.5, weight)

    def losses(self, batch: Noised) -> dict[str, Tensor]:
        """Weighted mean square error of the velocity; ``early`` of that where more than half is noise."""
        *inputs, velocity, mostly_noise, weight = (part.to(self._device, non_blocking=True) for part in batch)
        with autocast_for(self._device):
            predicted = self.model(*inputs)
        wrong = (weight * (predicted.float() - velocity).square()).mean((1, 2, 3, 4))
        early = (wrong.detach() * mostly_noise).sum() / mostly_noise.sum().clamp_min(1)
        length = torch.tensor(float(batch.noisy.shape[2]))
        return {"loss": wrong.mean(), "early": early, "latent_frames": length}

    def _times(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps spread evenly over the batch, more of them noisy; some see noise alone, as sampling begins."""
        places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        last = len(self._kept) - 1
        times = (places**_TOWARDS_NOISE * (last + 1)).long().clamp_max(last)
        alone = torch.rand(count, generator=generator) < _ALL_NOISE
        return torch.where(alone, last, times)


def _prompt(scene: Scene | None, starts: bool, chosen: random.Random) -> str:
    """For a scene, or for a picture of another world, of which no prompt says anything.

    Now and then it names another sky than the start image has: the picture is right.
    """
    if chosen.random() < _NO_PROMPT:
        return ""
    scene = scene or random_scene(chosen.randrange(2**30))
    if starts and chosen.random() < _OTHER_SKY:
        scene = replace(scene, setting=chosen.choice(SETTINGS), style=chosen.choice(STYLES))
    return write_prompt(scene, chosen.choice(LANGUAGES), chosen.randrange(2**62)).text


def _weight(scene: Scene | None, size: Sequence[int]) -> Tensor:
    """What each place of latents ``[t, h, w]`` counts for.

    Prompts are mostly about what is small, hardest where it comes and goes; a picture of another world is to be
    copied, and little is wrong with a copy that is not yet good; and a texture is faint, but asked for by name.
    """
    if scene is None:
        return torch.full(tuple(size), _OTHER_WORLDS)
    latent_frames, cells, _ = size
    touched = places(scene, 4 * latent_frames - 3, cells)
    groups = touched[:1, None], touched[1:].unflatten(0, (latent_frames - 1, 4))
    ever, always = (torch.cat([of(group, 1) for group in groups]) for of in (torch.amax, torch.amin))
    weight = 1 + _OBJECTS * ever + _MOVING * (ever - always)
    return weight / weight.mean() * (_TEXTURED if scene.style == "textured" else 1.0)


@torch.no_grad()
def _begin(transformer: EasyAnimateTransformer3DModel) -> None:
    """Let every block begin as one that changes nothing, and the prediction as zero (Peebles and Xie, 2022)."""
    blocks: Any = transformer.transformer_blocks
    layers = [norm.linear for block in blocks for norm in (block.norm1, block.norm2)]
    for layer in [*layers, transformer.proj_out]:
        layer.weight.zero_()
        layer.bias.zero_()
