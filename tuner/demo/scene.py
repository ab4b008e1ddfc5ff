"""The demo's world: what a clip shows, as plain values that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "star"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"]
Motion = Literal["left", "right", "up", "down", "circling", "bouncing", "growing", "still"]
Setting = Literal["day", "night", "sea"]
Style = Literal["plain", "gradient", "textured"]
Place = Literal["alone", "left", "right", "above", "below"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
SETTINGS: tuple[Setting, ...] = get_args(Setting)
STYLES: tuple[Style, ...] = get_args(Style)
PLACES: tuple[Place, ...] = get_args(Place)

LAST_FRAME = 48
"""Number of the last frame of the longest clip: an object that moves straight crosses its room by then."""

_TWO_THINGS = 0.3
_MARGIN = 0.03
_WIDEST_ORBIT, _HIGHEST_BOUNCE = 0.24, 0.4
# What a prompt does not say is much the same in all clips: a model this small learns nothing from guessing it.
_SPREAD = 0.3
_LEAST_WAY = 0.8
_LATEST_PHASE, _LARGEST_TILT = 0.1, 0.1


@dataclass(frozen=True)
class Thing:
    """One object. Places and lengths are parts of the picture's side; y points down.

    Attributes:
        shape: What it is.
        colour: Its colour before shading.
        motion: How it moves.
        x: Where it starts; of a circling one, the middle of its orbit.
        y: Likewise; of a bouncing one, the highest point.
        radius: Of the circle around it at the start.
        reach: How far it gets by :data:`LAST_FRAME`; or radius of the orbit, height of a bounce, growth.
        phase: Where on its orbit or in its bounce it starts, 0 to 1.
        tilt: Radians it is turned by.
    """

    shape: Shape
    colour: Colour
    motion: Motion
    x: float
    y: float
    radius: float
    reach: float = 0.0
    phase: float = 0.0
    tilt: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A clip's content.

    Attributes:
        things: One or two objects of different colours; of two, the first is named first and stands left or above.
        setting: Decides the background's colours.
        style: Decides how the background is painted.
        seed: Of the background's details.
    """

    things: tuple[Thing, ...]
    setting: Setting
    style: Style
    seed: int


@dataclass(frozen=True)
class _Room:
    """The rectangle that one object keeps to."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def inside(self, margin: float) -> _Room:
        return _Room(self.left + margin, self.top + margin, self.right - margin, self.bottom - margin)

    def middle(self, part: float) -> _Room:
        x, y = self.width * (1 - part) / 2, self.height * (1 - part) / 2
        return _Room(self.left + x, self.top + y, self.right - x, self.bottom - y)

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


_ROOMS: dict[Place, _Room] = {
    "alone": _Room(),
    "left": _Room(right=0.5),
    "right": _Room(left=0.5),
    "above": _Room(bottom=0.5),
    "below": _Room(top=0.5),
}


def random_scene(seed: int, things: int | None = None) -> Scene:
    """A scene of the world, the same for a seed.

    Args:
        seed: Any number.
        things: How many objects; None leaves it to chance.
    """
    chosen = random.Random(seed)
    by_chance = 2 if chosen.random() < _TWO_THINGS else 1
    count = things or by_chance
    motions: list[Motion] = [chosen.choice(MOTIONS) for _ in range(count)]
    colours = chosen.sample(COLOURS, count)
    found = [
        _thing(chosen, chosen.choice(SHAPES), colour, motion, _ROOMS[place])
        for colour, motion, place in zip(colours, motions, standing(motions), strict=True)
    ]
    return Scene(tuple(found), chosen.choice(SETTINGS), chosen.choice(STYLES), chosen.randrange(2**31))


def with_thing(scene: Scene, **changes: object) -> Scene:
    """``scene`` with its first object changed."""
    first = replace(scene.things[0], **changes)  # type: ignore[arg-type]
    return replace(scene, things=(first, *scene.things[1:]))


def standing(motions: Sequence[Motion]) -> tuple[Place, ...]:
    """Where one object or two stand that move so: two where they have most way to go."""
    if len(motions) == 1:
        return ("alone",)
    if any(motion in ("left", "right") for motion in motions):
        return "above", "below"
    return "left", "right"


def _thing(chosen: random.Random, shape: Shape, colour: Colour, motion: Motion, room: _Room) -> Thing:
    """An object that stays in its room up to the last frame."""
    side = min(room.width, room.height)
    radius = side * chosen.uniform(0.24, 0.28) if side < 1 else chosen.uniform(0.15, 0.19)
    tilt = chosen.uniform(-_LARGEST_TILT, _LARGEST_TILT)
    way, reach, largest = chosen.uniform(_LEAST_WAY, 1.0), 0.0, radius
    if motion == "growing":
        largest = side * 0.5 - _MARGIN if side < 1 else chosen.uniform(0.22, 0.26)
        radius = largest * chosen.uniform(0.45, 0.55)
        reach = largest - radius
    free = room.inside(largest + (_MARGIN if motion != "growing" else 0.0))
    if motion in ("left", "right"):
        reach = free.width * way
        free = (
            replace(free, right=free.right - reach) if motion == "right" else replace(free, left=free.left + reach)
        )
    elif motion in ("up", "down"):
        reach = free.height * way
        free = (
            replace(free, bottom=free.bottom - reach) if motion == "down" else replace(free, top=free.top + reach)
        )
    elif motion == "circling":
        reach = min(_WIDEST_ORBIT, min(free.width, free.height) / 2) * way
        free = free.inside(reach)
    elif motion == "bouncing":
        reach = min(_HIGHEST_BOUNCE, free.height) * way
        free = replace(free, bottom=free.bottom - reach)
    free = free.middle(_SPREAD)
    x, y = chosen.uniform(free.left, free.right), chosen.uniform(free.top, free.bottom)
    return Thing(shape, colour, motion, x, y, radius, reach, chosen.uniform(0, _LATEST_PHASE), tilt)
