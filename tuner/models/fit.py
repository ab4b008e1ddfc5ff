"""Whether the parts of a checkpoint belong together."""

from __future__ import annotations

from typing import Any

from tuner.errors import BadInput
from tuner.models.files import label
from tuner.models.weights import Part


def check_fit(transformer: Part, vae: Part, texts: list[Part]) -> None:
    """Raise :class:`BadInput` unless the transformer takes what the other parts give."""
    modules: list[Any] = [part.module for part in (transformer, vae, *texts)]
    config, latents = modules[0].config, modules[1].config["latent_channels"]
    widths = [text.config.hidden_size for text in modules[2:]]
    for key, needed in (
        ("out_channels", latents),
        ("in_channels", 2 * latents + 1),  # noise, the masked video's latents, the mask
        ("text_embed_dim", widths[0]),
        ("text_embed_dim_t5", widths[1] if len(widths) > 1 else None),
    ):
        if config[key] != needed:
            file = transformer.folder / "config.json"
            raise BadInput(
                f"{label(file)}, {key}", config[key], f"{needed}, which the other parts of an InP model need"
            )
