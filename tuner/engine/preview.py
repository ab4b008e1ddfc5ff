"""Pictures of latents without the VAE: three weighted sums of their channels, small and at once.

A VAE's latents are mostly local averages of colour, so that a linear map fitted to a few clips shows what a
clip will be while it is still being denoised, for a thousandth of the time that decoding takes.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tuner.errors import BadInput

FILE_NAME = "latent_rgb.json"
"""Where a checkpoint keeps its projection, in the VAE's folder."""

_RIDGE = 1e-4
_MOST_CLIPS = 8
_LARGEST_SIDE = 64
_QUALITY = 80


@dataclass(frozen=True)
class LatentColours:
    """A linear map from latent channels to colours.

    Attributes:
        weight: float32 ``[3, C]``.
        bias: float32 ``[3]``.
    """

    weight: Tensor
    bias: Tensor

    def pictures(self, latents: Tensor) -> Tensor:
        """One small picture for each latent frame.

        Args:
            latents: ``[C, t, h, w]``, scaled as the transformer sees them, on any device.

        Returns:
            uint8 ``[t, h, w, 3]`` on the same device.
        """
        weight, bias = (part.to(latents.device, latents.dtype) for part in (self.weight, self.bias))
        colours = torch.tensordot(weight, latents, dims=1) + bias.view(3, 1, 1, 1)
        levels = ((colours.float() + 1) * 127.5).clamp_(0, 255).round_().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).contiguous()

    def save(self, folder: Path) -> None:
        """Write it into a VAE's folder."""
        values = {"weight": self.weight.tolist(), "bias": self.bias.tolist()}
        (folder / FILE_NAME).write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LatentColours | None:
        """The projection in a VAE's folder, None where there is none.

        Raises:
            BadInput: The file holds something else.
        """
        file = folder / FILE_NAME
        if not file.is_file():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            found = cls(torch.tensor(values["weight"]), torch.tensor(values["bias"]))
        except (ValueError, KeyError, TypeError):
            raise BadInput(FILE_NAME, "no projection", "three rows of weights and three biases") from None
        if found.weight.ndim != 2 or found.weight.shape[0] != 3 or found.bias.shape != (3,):
            raise BadInput(FILE_NAME, list(found.weight.shape), "three rows of weights and three biases")
        return found


class ColourFit:
    """Fits the map by least squares, clip by clip.

    Attributes:
        clips: How many it has seen.
    """

    def __init__(self) -> None:
        self.clips = 0
        self._square = self._wanted = torch.zeros(())
        self._count = 0

    def add(self, latents: Tensor, pictures: Tensor) -> None:
        """Learn from one clip.

        Args:
            latents: ``[C, t, h, w]`` on the host, scaled as the transformer sees them.
            pictures: What they decode to, ``[3, t, h, w]`` in -1..1, averaged to their size.
        """
        inputs = latents.flatten(1).T.double()
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        self._square = self._square + inputs.T @ inputs
        self._wanted = self._wanted + inputs.T @ pictures.flatten(1).T.double()
        self._count += len(inputs)
        self.clips += 1

    def solve(self) -> LatentColours | None:
        """The map that is best so far; None before the first clip."""
        if not self.clips:
            return None
        # A little weight on small numbers, for channels that carry nothing.
        damped = self._square + _RIDGE * self._count * torch.eye(len(self._square), dtype=torch.float64)
        solution = torch.linalg.solve(damped, self._wanted).T.float()
        return LatentColours(solution[:, :-1].contiguous(), solution[:, -1].contiguous())

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` makes it from again."""
        sums = {"square": self._square.tolist(), "wanted": self._wanted.tolist()}
        return {"clips": self.clips, "count": self._count, **sums}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ColourFit:
        """The fit that :meth:`to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: It did not.
        """
        fit = cls()
        fit.clips, fit._count = int(values["clips"]), int(values["count"])
        fit._square = torch.tensor(values["square"], dtype=torch.float64)
        fit._wanted = torch.tensor(values["wanted"], dtype=torch.float64)
        size = len(fit._square)
        if fit._square.shape != (size, size) or fit._wanted.shape != (size, 3):
            raise ValueError("sums of other sizes")
        return fit


class Preview:
    """Shows a clip while it is denoised, and learns from decoded clips how to show the next.

    Args:
        colours: The map that came with the model: it is taken, and nothing is learned.
        fit: What earlier clips taught.
        file: Where that is kept.
    """

    def __init__(
        self, colours: LatentColours | None = None, fit: ColourFit | None = None, file: Path | None = None
    ) -> None:
        self._fit = fit or ColourFit()
        self._colours = colours or self._fit.solve()
        self._learns = colours is None and self._fit.clips < _MOST_CLIPS
        self._file = file
        self._decoded: list[Tensor] = []

    @classmethod
    def of(cls, vae: nn.Module, vae_folder: Path, kept_in: Path) -> Preview:
        """The preview of a VAE.

        Args:
            vae: Weights on the host.
            vae_folder: Where it was read from, which may hold a map.
            kept_in: Folder of what is learned of those that come without one.

        Raises:
            BadInput: The map in ``vae_folder`` is damaged.
        """
        colours = LatentColours.load(vae_folder)
        if colours is not None:
            return cls(colours)
        file = kept_in / f"{_digest(vae)}.json"
        fit = None
        with suppress(OSError, ValueError, KeyError, TypeError):  # not there or damaged: it is learned anew
            fit = ColourFit.from_json(json.loads(file.read_text(encoding="utf-8")))
        return cls(fit=fit, file=file)

    @property
    def shows(self) -> bool:
        """Whether there is a map."""
        return self._colours is not None

    def pictures(self, latents: Tensor) -> Tensor:
        """As :meth:`LatentColours.pictures`."""
        assert self._colours is not None
        return self._colours.pictures(latents)

    def watch(self, chunk: Tensor, height: int, width: int) -> None:
        """Take notice of the next decoded frames.

        Args:
            chunk: ``[1, 3, T, H, W]`` in about -1..1, on the host.
            height: Of the latents.
            width: Of the latents.
        """
        if self._learns:
            frames = chunk[0].transpose(0, 1).float().clamp(-1, 1)
            self._decoded.append(functional.adaptive_avg_pool2d(frames, (height, width)))

    def learn(self, latents: Tensor) -> None:
        """Learn from what was watched, and keep it.

        Args:
            latents: What was decoded, ``[C, t, h, w]`` on the host.
        """
        if not self._decoded:
            return
        frames = torch.cat(self._decoded).transpose(0, 1)
        self._decoded.clear()
        self._fit.add(latents, averaged_over_time(frames))
        self._colours = self._fit.solve()
        if self._file is not None:
            with suppress(OSError):  # a later clip will teach the same
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.write_text(json.dumps(self._fit.to_json()), encoding="utf-8")


def averaged_over_time(frames: Tensor) -> Tensor:
    """The mean of the frames that each latent frame stands for: the first alone, then four each.

    Args:
        frames: ``[3, 4 * (t - 1) + 1, h, w]``.

    Returns:
        ``[3, t, h, w]``.
    """
    later = frames[:, 1:].unflatten(1, ((frames.shape[1] - 1) // 4, 4))
    return torch.cat([frames[:, :1], later.mean(2)], dim=1)


def film_strip(pictures: Tensor) -> bytes:
    """Pictures side by side from first to last, none larger than 64 pixels, as a WebP file.

    Args:
        pictures: uint8 ``[t, h, w, 3]`` on the host.
    """
    frames, height, width, _ = pictures.shape
    strip = Image.fromarray(pictures.transpose(0, 1).flatten(1, 2).numpy())
    scale = _LARGEST_SIDE / max(height, width)
    if scale < 1:
        strip = strip.resize((frames * round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    strip.save(file, "WebP", quality=_QUALITY, method=0)
    return file.getvalue()


def _digest(vae: nn.Module) -> str:
    """Equal for VAEs of equal weights."""
    weight: Any = vae.get_parameter("post_quant_conv.weight")
    return hashlib.sha256(weight.float().numpy().tobytes()).hexdigest()[:16]
