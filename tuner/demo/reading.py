"""Between autoencoder and transformer: the text encoders learn what prompts say, before any picture is drawn.

The real model's text encoders come trained. These two learn in minutes, from prompts alone, to tell from their
outputs what stands where, how it moves and which background is named, in any words and language. What is left to
the transformer is to draw it.
"""

from __future__ import annotations

import itertools
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tuner.demo.checkpoint import Modules
from tuner.demo.prompts import LANGUAGES, write_prompt
from tuner.demo.recipe import Recipe
from tuner.demo.scene import COLOURS, MOTIONS, PLACES, SETTINGS, SHAPES, STYLES, Scene, random_scene, standing
from tuner.demo.tokenizers import Tokens

_SCENES = 2**30
_FIRST_SEED = 2**33
_MEANINGS: dict[Any, int] = {
    meaning: number
    for number, meaning in enumerate(
        [*itertools.product(PLACES, (*COLOURS, *SHAPES, *MOTIONS)), *SETTINGS, *STYLES]
    )
}


class Read(NamedTuple):
    """A batch of prompts.

    Attributes:
        ids: BERT's tokens ``[B, L]``.
        ids_t5: T5's tokens ``[B, L2]``.
        meanings: What each says, ``[B, M]`` of 0 and 1.
    """

    ids: Tensor
    ids_t5: Tensor
    meanings: Tensor


def meanings(scene: Scene, names_setting: bool, names_style: bool) -> Tensor:
    """What a prompt for a scene says: what is where, and what is named of the background."""
    places = standing([thing.motion for thing in scene.things])
    said: list[Any] = [
        (place, what)
        for place, thing in zip(places, scene.things, strict=True)
        for what in (thing.colour, thing.shape, thing.motion)
    ]
    said += [scene.setting] * names_setting + [scene.style] * names_style
    found = torch.zeros(len(_MEANINGS))
    found[[_MEANINGS[each] for each in said]] = 1.0
    return found


class Reader(nn.Module):
    """Both text encoders, and what reads the meanings off the mean of each one's outputs."""

    def __init__(self, modules: Modules) -> None:
        super().__init__()
        self.text_encoder: Any = modules.text_encoder
        self.text_encoder_2: Any = modules.text_encoder_2
        widths = modules.text_encoder.config.hidden_size, modules.text_encoder_2.config.d_model
        self.heads = nn.ModuleList(nn.Linear(width, len(_MEANINGS)) for width in widths)

    def forward(self, ids: Tensor, ids_t5: Tensor) -> tuple[Tensor, ...]:
        """Logits of the meanings ``[B, M]``, by BERT and by T5."""
        outputs = self.text_encoder(input_ids=ids)[0], self.text_encoder_2(input_ids=ids_t5)[0]
        return tuple(head(output.mean(1)) for head, output in zip(self.heads, outputs, strict=True))


class Reading:
    """Trains the text encoders.

    Args:
        modules: Changed in place.
        tokenizers: BERT's and T5's.
        recipe: How much.
        device: Where to compute; the encoders are moved there.
        seed: Of everything drawn.
    """

    name = "reading"

    def __init__(
        self, modules: Modules, tokenizers: list[Any], recipe: Recipe, device: torch.device, seed: int
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: nn.Module = Reader(modules).to(device)
        self.rate = recipe.rate
        self._tokens_of, self._prompts = Tokens(tokenizers), recipe.prompts
        self._device, self._seed = device, seed

    def batch(self, step: int, steps: int) -> Read:
        """Prompts and what they say."""
        chosen = random.Random(f"{self._seed} reading {step}")
        texts, said = [], []
        for _ in range(self._prompts):
            scene = random_scene(_FIRST_SEED + chosen.randrange(_SCENES), chosen.choice((1, 2)))
            prompt = write_prompt(scene, chosen.choice(LANGUAGES), chosen.randrange(2**62))
            texts.append(prompt.text)
            said.append(meanings(scene, prompt.setting, prompt.style))
        ids, ids_t5 = self._tokens_of(texts)
        return Read(ids, ids_t5, torch.stack(said))

    def losses(self, batch: Read) -> dict[str, Tensor]:
        """Cross entropy of the meanings, and in how many prompts BERT and T5 get all of them right."""
        ids, ids_t5, wanted = (part.to(self._device, non_blocking=True) for part in batch)
        read = self.model(ids, ids_t5)
        wrong = [functional.binary_cross_entropy_with_logits(logits, wanted) for logits in read]
        right = [((logits > 0) == (wanted > 0)).all(1).float().mean() for logits in read]
        return {"loss": wrong[0] + wrong[1], "bert": right[0].detach(), "t5": right[1].detach()}
