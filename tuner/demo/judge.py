"""Measure what a clip shows from its pixels alone, and compare that with what its prompt asked for.

The background is what stays the same along each row; objects are what differs from it. Their colour is the
nearest of the world's by chroma, their shape the template that covers them best, their motion that of their
middle and their size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tuner.demo.render import RGB, SKIES, distance
from tuner.demo.scene import SETTINGS, SHAPES, Colour, Motion, Scene, Setting, Shape, Style

_CONTRAST = 0.17
_LEAST_AREA = 0.0035
_MOST_FRAMES = 25
_SHAPE_FRAMES = 7
_TILTS = (-0.2, -0.1, 0.0, 0.1, 0.2)
_GROWS = 1.3
_MOVES = 0.009
_ROUND = 0.35
_STRAIGHT = 0.6
_SLOPES = 0.08
_ROUGH = 0.011


class SeenThing(NamedTuple):
    """One object as measured.

    Attributes:
        colour: Nearest of the world's.
        shape: Best template.
        motion: What its track looks like.
        x: Its middle in each judged frame, part of the width.
        y: Likewise, part of the height.
    """

    colour: Colour
    shape: Shape
    motion: Motion
    x: tuple[float, ...]
    y: tuple[float, ...]


class Seen(NamedTuple):
    """A clip as measured."""

    things: tuple[SeenThing, ...]
    setting: Setting
    style: Style


class Verdict(NamedTuple):
    """Which parts of a prompt a clip follows."""

    colour: bool
    shape: bool
    motion: bool
    background: bool


class _Blob(NamedTuple):
    """An object in one frame."""

    mask: Tensor
    x: float
    y: float
    radius: float
    rgb: Tensor


def look(video: Tensor) -> Seen:
    """Measure a clip.

    Args:
        video: float ``[T, 3, H, W]`` in 0..1.
    """
    step = -(-video.shape[0] // _MOST_FRAMES)
    frames = video[::step].float().cpu()
    rows = frames.median(3).values.median(0).values
    differs = (frames - rows[None, :, :, None]).square().sum(1).sqrt() > _CONTRAST
    opened = _grown(~_grown(~differs, 5), 5)
    setting, style = _background(frames, differs)
    blobs = [_blobs(frame, some, core) for frame, some, core in zip(frames, differs, opened, strict=True)]
    return Seen(tuple(_measured(track) for track in _tracks(blobs)), setting, style)


def verdict(scene: Scene, seen: Seen, names_setting: bool = True, names_style: bool = True) -> Verdict:
    """Compare what a clip shows with the scene its prompt was written for.

    Args:
        scene: What was asked for.
        seen: What was measured.
        names_setting: Whether the prompt names the setting; if not, any is right.
        names_style: Likewise of the style.
    """
    background = (not names_setting or seen.setting == scene.setting) and (
        not names_style or seen.style == scene.style
    )
    wanted = [(thing.colour, thing.shape, thing.motion) for thing in scene.things]
    if len(seen.things) != len(wanted):
        return Verdict(False, False, False, background)
    orders = []
    for order in itertools.permutations(seen.things):
        right = [
            [asked == measured for asked, measured in zip(want, thing[:3], strict=True)]
            for want, thing in zip(wanted, order, strict=True)
        ]
        orders.append([all(part) for part in zip(*right, strict=True)])
    colour, shape, motion = max(orders, key=sum)
    return Verdict(colour, shape, motion, background)


def largest_jump(video: Tensor) -> float:
    """The largest change from one frame to the next, in medians of such changes (of no less than half a level).

    Args:
        video: float ``[T, 3, H, W]`` in 0..1.
    """
    changes = (video[1:] - video[:-1]).abs().mean((1, 2, 3))
    return float(changes.max() / changes.median().clamp_min(0.5 / 255)) if len(changes) else 0.0


def _grown(mask: Tensor, size: int) -> Tensor:
    """``mask`` ``[T, H, W]`` and what lies around it; beyond the picture is nothing."""
    return functional.max_pool2d(mask.float(), size, 1, size // 2) > 0


def _background(frames: Tensor, differs: Tensor) -> tuple[Setting, Style]:
    """Setting and style from the pixels of the first frames that no object touches."""
    some, free = functional.avg_pool2d(frames[:6], 3, 1, 1, count_include_pad=False), ~_grown(differs[:6], 7)
    # Small lights belong to the background, though they differ.
    large = _grown(_grown(~_grown(~differs[:6], 5), 5), 7)
    seen = ~large
    weight = seen.float().sum(0)
    picture = (some * seen[:, None]).sum(0) / weight.clamp_min(1)
    known = weight > 0
    height = picture.shape[1]
    y = torch.linspace(-0.5, 0.5, height)[:, None].expand_as(known)
    inside = known & free.any(0)
    design = torch.stack([torch.ones(int(inside.sum())), y[inside]], dim=1)
    fitted = torch.linalg.lstsq(design, picture[:, inside].T).solution
    rest = picture[:, known] - (fitted[0][:, None] + fitted[1][:, None] * y[known])
    middle, slope = fitted[0], float(fitted[1].norm())
    means = torch.stack([torch.tensor(SKIES[setting]).mean(0) for setting in SETTINGS])
    setting = SETTINGS[int((means - middle).norm(dim=1).argmin())]
    if float(rest.square().mean().sqrt()) > _ROUGH:
        return setting, "textured"
    return setting, "gradient" if slope > _SLOPES else "plain"


def _blobs(frame: Tensor, differs: Tensor, core: Tensor) -> list[_Blob]:
    """The objects of one frame ``[3, H, W]``, largest first; at most two."""
    labels = _labels(core)
    height, width = core.shape
    numbers, areas = labels[core].unique(return_counts=True)
    blobs = []
    for index in areas.argsort(descending=True)[:2].tolist():
        if areas[index] < _LEAST_AREA * height * width:
            break
        body = labels == numbers[index]
        mask = _grown(body[None], 5)[0] & differs & ((labels == numbers[index]) | ~core)
        ys, xs = mask.nonzero().float().unbind(1)
        inner = ~_grown(~body[None], 3)[0]
        rgb = frame[:, inner if inner.any() else body].median(1).values
        radius = math.sqrt(len(xs) / math.pi) / width
        blobs.append(_Blob(mask, float(xs.mean() + 0.5) / width, float(ys.mean() + 0.5) / height, radius, rgb))
    return blobs


def _labels(mask: Tensor) -> Tensor:
    """One number for each connected part of ``mask`` ``[H, W]``; 0 elsewhere."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(mask.shape) * mask
    while True:
        spread = labels
        for _ in range(8):
            spread = functional.max_pool2d(spread[None], 3, 1, 1)[0] * mask
        if torch.equal(spread, labels):
            return labels
        labels = spread


def _tracks(frames: Sequence[list[_Blob]]) -> list[list[_Blob]]:
    """The same object in every frame that shows as many objects as most do."""
    counts = sorted(len(blobs) for blobs in frames)
    count = counts[len(counts) // 2]
    tracks: list[list[_Blob]] = [[] for _ in range(count)]
    for blobs in frames:
        if len(blobs) != count:
            continue
        orders = list(itertools.permutations(blobs))
        best = min(orders, key=lambda order: sum(map(_unlike, tracks, order)))
        for track, blob in zip(tracks, best, strict=True):
            track.append(blob)
    return tracks


def _unlike(track: list[_Blob], blob: _Blob) -> float:
    if not track:
        return 0.0
    return math.hypot(track[-1].x - blob.x, track[-1].y - blob.y) + float((track[-1].rgb - blob.rgb).norm())


def _measured(track: list[_Blob]) -> SeenThing:
    colour = _colour(torch.stack([blob.rgb for blob in track]).median(0).values)
    x, y = (tuple(getattr(blob, axis) for blob in track) for axis in "xy")
    return SeenThing(colour, _shape(track), _motion(track), x, y)


def _colour(rgb: Tensor) -> Colour:
    def chroma(colour: Tensor) -> Tensor:
        return colour / colour.max().clamp_min(1e-3)

    return min(RGB, key=lambda name: float((chroma(torch.tensor(RGB[name])) - chroma(rgb)).norm()))


def _shape(track: list[_Blob]) -> Shape:
    chosen = track[:: -(-len(track) // _SHAPE_FRAMES)]
    return max(SHAPES, key=lambda shape: max(_overlap(chosen, shape, tilt) for tilt in _TILTS))


def _overlap(track: Sequence[_Blob], shape: Shape, tilt: float) -> float:
    """Intersection over union of the object's masks and a template of their size at their middle, on average."""
    area, middle_x, middle_y = _template(shape)
    cos, sin, found = math.cos(tilt), math.sin(tilt), 0.0
    for blob in track:
        height, width = blob.mask.shape
        scale = math.sqrt(math.pi / area) * blob.radius
        dx = ((torch.arange(width) + 0.5) / width - blob.x)[None, :] / scale
        dy = ((torch.arange(height) + 0.5) / height - blob.y)[:, None] / scale
        inside = distance(shape, cos * dx + sin * dy + middle_x, cos * dy - sin * dx + middle_y) < 0
        found += float((inside & blob.mask).sum() / (inside | blob.mask).sum())
    return found / len(track)


@cache
def _template(shape: Shape) -> tuple[float, float, float]:
    """Area and middle of a shape of radius 1."""
    places = torch.linspace(-1.3, 1.3, 261)
    inside = distance(shape, places[None, :], places[:, None]) < 0
    ys, xs = inside.nonzero().unbind(1)
    return float(inside.sum()) * 0.01**2, float(places[xs].mean()), float(places[ys].mean())


def _motion(track: list[_Blob]) -> Motion:
    x, y, radius = (torch.tensor([getattr(blob, name) for blob in track]) for name in ("x", "y", "radius"))
    if len(track) < 3:
        return "still"
    (along_x, spread_x, _), (along_y, spread_y, straight_y) = _line(x), _line(y)
    grown, _, _ = _line(radius.log())
    wide, narrow = max(spread_x, spread_y), min(spread_x, spread_y)
    if math.exp(grown) > _GROWS and wide < 0.03:
        return "growing"
    if wide < _MOVES:
        return "still"
    if narrow > _ROUND * wide:
        return "circling"
    if spread_x > spread_y:
        return "right" if along_x > 0 else "left"
    if straight_y < _STRAIGHT:
        return "bouncing"
    return "down" if along_y > 0 else "up"


def _line(values: Tensor) -> tuple[float, float, float]:
    """What a line through ``values`` climbs from first to last, their spread, and how much of it that explains."""
    times = torch.linspace(-0.5, 0.5, len(values))
    centred = values - values.mean()
    climb = float((times * centred).sum() / times.square().sum())
    total = float(centred.square().sum())
    explained = climb**2 * float(times.square().sum()) / total if total else 1.0
    return climb, float(centred.square().mean().sqrt()), explained
