"""Draw scenes of the demo's world: shaded objects with smooth edges on a painted background.

Everything is computed by torch from a scene's values, on a CPU or a card, the same for the same scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tuner.demo.scene import LAST_FRAME, Colour, Scene, Setting, Shape, Thing

SIDE = 128
ORBIT_FRAMES = 40
BOUNCE_FRAMES = 20

RGB: dict[Colour, tuple[float, float, float]] = {
    "red": (0.90, 0.13, 0.13),
    "orange": (1.00, 0.52, 0.06),
    "yellow": (1.00, 0.87, 0.12),
    "green": (0.20, 0.72, 0.22),
    "blue": (0.10, 0.24, 0.85),
    "purple": (0.52, 0.18, 0.78),
    "pink": (1.00, 0.50, 0.74),
    "white": (0.97, 0.97, 0.95),
}
SKIES: dict[Setting, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "day": ((0.30, 0.57, 0.88), (0.64, 0.83, 0.95)),
    "night": ((0.03, 0.04, 0.12), (0.15, 0.12, 0.30)),
    "sea": ((0.10, 0.50, 0.58), (0.02, 0.20, 0.36)),
}
"""Colours of each setting at the top and at the bottom."""

_LIGHT = (-0.55, -0.65)
_WANDERS = 0.6
_STARS_SEED = 5
# Heaps of cloud: middle and height, parts of the picture's side.
_PUFFS = (
    *((0.08, 0.17, 0.06), (0.18, 0.13, 0.08), (0.29, 0.18, 0.06)),
    *((0.62, 0.30, 0.05), (0.72, 0.25, 0.08), (0.84, 0.28, 0.07), (0.93, 0.32, 0.05)),
    *((0.14, 0.62, 0.06), (0.25, 0.57, 0.08), (0.36, 0.62, 0.05)),
    *((0.58, 0.82, 0.05), (0.68, 0.77, 0.08), (0.79, 0.81, 0.07)),
)


class _Grid(NamedTuple):
    """Places of the pixels' middles, parts of the picture's side."""

    x: Tensor
    y: Tensor


def render(
    scene: Scene, frames: int, side: int = SIDE, *, start: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw frames of a scene.

    Args:
        scene: What to draw.
        frames: How many.
        side: Height and width in pixels.
        start: Number of the first frame, 8 of which pass in a second.
        device: Where to compute.

    Returns:
        float32 ``[frames, 3, side, side]`` in 0..1.
    """
    middles = (torch.arange(side, device=device) + 0.5) / side
    grid = _Grid(middles[None, :], middles[:, None])
    times = torch.arange(start, start + frames, dtype=torch.float32)
    video = _background(scene, grid, times.to(device))
    for thing in scene.things:
        _paint(video, thing, grid, times)
    return video


def track(thing: Thing, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where an object is and how large: x, y and radius for each of ``times`` (frame numbers)."""
    x, y = torch.full_like(times, thing.x), torch.full_like(times, thing.y)
    radius = torch.full_like(times, thing.radius)
    progress = times / LAST_FRAME
    match thing.motion:
        case "left":
            x -= thing.reach * progress
        case "right":
            x += thing.reach * progress
        case "up":
            y -= thing.reach * progress
        case "down":
            y += thing.reach * progress
        case "circling":
            angle = 2 * math.pi * (times / ORBIT_FRAMES + thing.phase)
            x += thing.reach * angle.cos()
            y += thing.reach * angle.sin()
        case "bouncing":
            y += thing.reach * (1 - (math.pi * (times / BOUNCE_FRAMES + thing.phase)).sin().abs())
        case "growing":
            radius += thing.reach * progress
        case "still":
            pass
    return x, y, radius


def places(scene: Scene, frames: int, cells: int) -> Tensor:
    """Where objects are on a grid of ``cells`` by ``cells``: 1 in each cell that one touches, else 0.

    Returns:
        float32 ``[frames, cells, cells]``.
    """
    middles = (torch.arange(cells) + 0.5) / cells
    found = torch.zeros(frames, cells, cells)
    for thing in scene.things:
        x, y, radius = (part[:, None, None] for part in track(thing, torch.arange(frames, dtype=torch.float32)))
        away = torch.hypot(middles[None, None, :] - x, middles[None, :, None] - y)
        found.logical_or_(away < radius + 0.5 / cells)
    return found


def distance(shape: Shape, x: Tensor, y: Tensor) -> Tensor:
    """How far places lie outside of a shape of radius 1 around the origin; negative inside. y points down."""
    return _DISTANCES[shape](x, y)


def _paint(video: Tensor, thing: Thing, grid: _Grid, times: Tensor) -> None:
    """Draw an object over ``video`` ``[T, 3, H, W]``, in place; only the pixels around it are touched.

    ``times`` are on the host, so that no card is waited for to know where the object is.
    """
    side = video.shape[-1]
    xs, ys, radii = track(thing, times)
    reach = radii + 2 / side
    left, right = _span(xs, reach, side)
    top, bottom = _span(ys, reach, side)
    if left >= right or top >= bottom:
        return
    x, y, radius = (part[:, None, None].to(video.device) for part in (xs, ys, radii))
    dx, dy = (grid.x[:, left:right] - x) / radius, (grid.y[top:bottom] - y) / radius
    cos, sin = math.cos(thing.tilt), math.sin(thing.tilt)
    away = distance(thing.shape, cos * dx + sin * dy, cos * dy - sin * dx)
    cover = (0.5 - away * radius * side).clamp_(0, 1)
    rim = (away / -0.4).clamp_(0, 1)
    shade = (0.74 + 0.22 * rim * (2 - rim)).add_(dx, alpha=0.16 * _LIGHT[0]).add_(dy, alpha=0.16 * _LIGHT[1])
    shine = ((dx - 0.5 * _LIGHT[0]).square_() + (dy - 0.5 * _LIGHT[1]).square_()).div_(-0.06).exp_().mul_(0.35)
    shine.mul_(rim)
    patch = video[:, :, top:bottom, left:right]
    for channel, value in enumerate(RGB[thing.colour]):
        lit = (shade * value).lerp_(torch.ones((), device=video.device), shine).clamp_(0, 1)
        patch[:, channel].lerp_(lit, cover)


def _span(middles: Tensor, reach: Tensor, side: int) -> tuple[int, int]:
    """First and behind-the-last pixel that the object ever touches."""
    first = math.floor(float((middles - reach).amin()) * side)
    last = math.ceil(float((middles + reach).amax()) * side)
    return max(0, first), min(side, last)


def _background(scene: Scene, grid: _Grid, times: Tensor) -> Tensor:
    """``[T, 3, H, W]``, ours to draw on."""
    device = grid.x.device
    generator = torch.Generator().manual_seed(scene.seed)
    tint = (torch.rand(3, generator=generator) * 0.06 - 0.03).to(device)
    top, bottom = (torch.tensor(colour, device=device) + tint for colour in SKIES[scene.setting])
    down = 0.5 * torch.ones_like(grid.y) if scene.style == "plain" else grid.y
    column = torch.lerp(top[:, None, None], bottom[:, None, None], down)
    size = len(times), 3, grid.y.shape[0], grid.x.shape[1]
    if scene.style != "textured":
        return column.clamp(0, 1).expand(size).clone()
    light = _DETAILS[scene.setting](grid, times, generator)
    return (column + light[:, None]).clamp_(0, 1).expand(size).clone()


def _clouds(grid: _Grid, times: Tensor, generator: torch.Generator) -> Tensor:
    """Heaps of light that drift, ``[T, H, W]``."""
    shift = _wandering(2, generator)
    wind = times[:, None, None] * 0.002 + 0.1 * shift[0]
    light = torch.zeros(len(times), 1, 1, device=grid.x.device)
    for x, y, size in _PUFFS:
        away = ((grid.x - x - wind) / (1.5 * size)).square() + ((grid.y - y - 0.1 * shift[1]) / size).square()
        light = light + (-away).exp()
    return 0.09 * (9 * (light - 0.5)).sigmoid() - 0.027


def _stars(grid: _Grid, times: Tensor, generator: torch.Generator) -> Tensor:
    """Small lights that twinkle, ``[T, H, W]``."""
    del generator  # one night has the stars of any other
    side = grid.x.shape[1]
    light = torch.zeros(len(times), side, side, device=grid.x.device)
    for x, y, size, phase in torch.rand(30, 4, generator=torch.Generator().manual_seed(_STARS_SEED)).tolist():
        left, top = int(x * (side - 6)), int(y * (side - 6))
        window = grid.x[:, left : left + 7] - (left + 3) / side, grid.y[top : top + 7] - (top + 3) / side
        spot = (window[0].square() + window[1].square()).div(-2 * (0.006 + 0.003 * size) ** 2).exp()
        twinkle = 0.36 + 0.12 * (times * 0.5 + 2 * math.pi * phase).sin()
        light[:, top : top + 7, left : left + 7] += twinkle[:, None, None] * spot
    return light


def _waves(grid: _Grid, times: Tensor, generator: torch.Generator) -> Tensor:
    """Bands of light that roll, ``[T, H, W]``."""
    phase = _wandering(3, generator)
    flow = times[:, None, None] * 0.12
    bend = 0.9 * torch.sin(2 * math.pi * 1.5 * grid.x + phase[0] + flow)
    ripple = (2 * math.pi * 7 * grid.y + bend + phase[1] - 0.5 * flow).sin()
    swell = (2 * math.pi * 3 * grid.y - 1.4 * bend + phase[2]).sin()
    return 0.045 * ripple + 0.03 * swell


def _wandering(count: int, generator: torch.Generator) -> list[float]:
    """What no prompt says of a texture is much the same in all clips: numbers a little around zero."""
    return (torch.rand(count, generator=generator) - 0.5).mul(_WANDERS).tolist()


_DETAILS: dict[Setting, Callable[[_Grid, Tensor, torch.Generator], Tensor]] = {
    "day": _clouds,
    "night": _stars,
    "sea": _waves,
}


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    # Its middle lies above that of the circle around it.
    y = y - 0.15
    half, inner = math.sqrt(3) / 2, 0.55
    return torch.maximum(y, half * x.abs() - 0.5 * y) - inner


def _star(x: Tensor, y: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    folded = (angle - sector * torch.round(angle / sector)).abs()
    far = torch.hypot(x, y)
    u, v = far * folded.cos(), far * folded.sin()
    # The edge from the tip (1.1, 0) to the notch.
    notch = 0.5 * math.cos(sector / 2), 0.5 * math.sin(sector / 2)
    along = notch[0] - 1.1, notch[1]
    length = math.hypot(*along)
    return (v * -along[0] + (u - 1.1) * along[1]) / length


_DISTANCES: dict[Shape, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
}
