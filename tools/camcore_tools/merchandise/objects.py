"""The five kinds of merchandise, each drawn around the origin and about two units long, and their pose."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from camcore_tools.merchandise.parts import (
    OUTLINE,
    Floats,
    Paints,
    Part,
    Rng,
    arc,
    lathed,
    outlined,
    random_colour,
    rounded,
    shade,
    turned,
)

__all__ = ["RECIPES", "Recipe", "posed"]


def _cap(paints: Paints, rng: Rng) -> list[Part]:
    """Dome and brim as seen from `yaw` degrees off the front, a little from above."""
    yaw, tilt, colour = rng.uniform(20, 80), rng.uniform(0.27, 0.4), (paints.body, paints.trim)[rng.integers(2)]
    around = np.linspace(-64, 64, 30)
    reach = rng.uniform(0.85, 1.05) * np.cos(np.radians(around * 90 / 64)) ** 0.7

    def on_brim(part: float) -> Floats:
        turn, radius = np.radians(around + yaw), 0.96 + part * reach
        droop = 0.16 * part * reach * np.abs(np.sin(np.radians(around)))
        return np.stack([radius * np.sin(turn), tilt * radius * np.cos(turn) + droop], axis=1)

    brim = np.concatenate([on_brim(1), on_brim(0)[::-1]])
    underside = outlined(brim + np.array([0, 0.07]), shade(colour, 0.55))
    stitches = [Part(on_brim(part), shade(colour, 0.7), 0.02) for part in (0.6, 0.85)]
    return [*underside, *outlined(brim, colour), *stitches, *_dome(paints, yaw, tilt, rng)]


def _dome(paints: Paints, yaw: float, tilt: float, rng: Rng) -> list[Part]:
    """Five panels with seams, the front one perhaps in another colour with an emblem, and the button on top."""

    def on_dome(turn: Floats | float, rise: Floats | float) -> Floats:
        azimuth, height = np.radians(turn), np.radians(rise)
        down = tilt * np.cos(height) * np.cos(azimuth) - 0.98 * np.sin(height)
        return np.stack(np.broadcast_arrays(np.cos(height) * np.sin(azimuth), down), axis=1)

    rise, front = np.linspace(0, 90, 12), (paints.body, paints.trim)[rng.integers(2)]
    outline = np.concatenate([arc(0, 0, 1, np.hypot(0.98, tilt), 180, 360), arc(0, 0, 1, tilt, 0, 180)])
    parts = outlined(outline, paints.body, 1.6 * OUTLINE)
    for middle in sorted(np.arange(yaw, yaw + 360, 72), key=lambda turn: float(np.cos(np.radians(turn)))):
        for turn in np.arange(middle - 36, middle + 36, 12):
            light = 0.98 + 0.25 * np.cos(np.radians(turn + 6 + 40))
            panel = np.concatenate([on_dome(turn, rise), on_dome(turn + 12, rise[::-1])])
            parts.append(Part(panel, shade(front if middle == yaw else paints.body, light)))
        parts += [Part(on_dome(middle + side, rise), shade(paints.body, 0.5), 0.025) for side in (-36, 36)]
    ring = np.linspace(0, 2 * np.pi, 41)
    spikes = 1 + rng.choice([0.0, 0.35]) * np.cos(5 * ring)
    emblem = on_dome(yaw + 15 * spikes * np.sin(ring), 34 + 14 * spikes * np.cos(ring))
    return [*parts, Part(emblem, paints.accent), *outlined(arc(0, -0.99, 0.11, 0.065), front)]


def _cube(paints: Paints, rng: Rng) -> list[Part]:
    """Three faces of a puzzle cube, solved or scrambled, in parallel projection."""
    yaw, pitch = np.radians(rng.uniform(28, 62)), np.radians(rng.uniform(25, 42))
    right = np.array([np.cos(yaw), np.sin(yaw) * np.sin(pitch)])
    back = np.array([np.sin(yaw), -np.cos(yaw) * np.sin(pitch)])
    rise = np.array([0.0, -np.cos(pitch)])
    solved = rng.random() < 0.4
    stickers = [paints.body, paints.trim, paints.accent, *(random_colour(rng) for _ in range(3))]
    plastic = rng.choice([0.08, 0.6]) + 0.35 * paints.body * rng.random()
    tile = rounded(0.135, 0.135, 0.04)
    # right goes along the left-hand visible face, back along the other one.
    faces = ((0 * right, right, rise, 0.92), (right, back, rise, 0.72), (rise, right, back, 1.12))
    parts: list[Part] = []
    for side, (corner, along, up, light) in enumerate(faces):
        edge = np.array([corner, corner + along, corner + along + up, corner + up])
        parts += outlined(edge, shade(plastic, light), 0.5 * OUTLINE)
        for cell in np.ndindex(3, 3):
            colour = stickers[side if solved else rng.integers(len(stickers))]
            middle = (np.array(cell) + 0.5) / 3
            parts.append(Part(corner + (tile + middle) @ np.array([along, up]), shade(colour, light)))
    return parts


def _playing_cards(paints: Paints, rng: Rng) -> list[Part]:
    """Two or three cards fanned out from a pivot below them."""
    count, spread = int(rng.integers(2, 4)), rng.uniform(16, 28)
    suits = rng.permutation(4)
    parts: list[Part] = []
    for i in range(count):
        ink = paints.trim if i % 2 else paints.accent
        turn = turned(np.radians((i - (count - 1) / 2) * spread + rng.uniform(-3, 3)))
        card = _card(paints.body, ink, _SUITS[suits[i]], rng)
        parts += [replace(part, points=(part.points - (0, 1.3)) @ turn.T) for part in card]
    return parts


def _card(paper: Floats, ink: Floats, suit: Iterable[Floats], rng: Rng) -> list[Part]:
    """One upright card: pips in the middle and in two corners."""
    layouts = (((0, 0, 0.33),), ((0, -0.36, 0.2), (0, 0.36, -0.2)), ((0, -0.48, 0.17), (0, 0, 0.17), (0, 0.48, -0.17)))
    pips = [*layouts[rng.integers(3)], (-0.45, -0.76, 0.1), (0.45, 0.76, -0.1)]
    parts = outlined(rounded(0.62, 0.95, 0.12), paper, OUTLINE)
    return parts + [Part(shape * scale + (x, y), ink) for x, y, scale in pips for shape in suit]


def _heart() -> Floats:
    turn = np.linspace(0, 2 * np.pi, 40)
    rise = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([16 * np.sin(turn) ** 3, -rise - 2.5], axis=1) / 15


_STEM = np.array([(-0.08, 0.1), (0.08, 0.1), (0.38, 1.1), (-0.38, 1.1)])
_SUITS = (
    (_heart(),),
    (_heart() * (1, -0.95) - (0, 0.1), _STEM),
    (np.array([(0, -1.15), (0.82, 0), (0, 1.15), (-0.82, 0)]),),
    (*(arc(x, y, 0.47, 0.47) for x, y in ((0, -0.55), (-0.53, 0.22), (0.53, 0.22))), _STEM),
)


def _screwdriver(paints: Paints, rng: Rng) -> list[Part]:
    """A ridged handle, a collar and a metal shaft with a flat or pointed tip."""
    thick, end = rng.uniform(0.22, 0.28), rng.uniform(0.8, 1.0)
    tip = ((0.06, 0.06, 0.12, 0.125, 0.09), (0.06, 0.06, 0.085, 0.05, 0.015))[rng.integers(2)]
    parts = lathed((-0.1, end), (0.06, 0.06), paints.metal)
    parts += lathed(end + np.array([-0.02, 0, 0.07, 0.15, 0.22]), tip, shade(paints.metal, 0.85))
    handle = np.array([0.55, 0.8, 0.97, 1, 0.92, 0.62, 0.6, 0.78, 0.75])
    parts += lathed((-1, -0.97, -0.88, -0.7, -0.4, -0.24, -0.14, -0.08, 0), thick * handle, paints.body)
    parts += lathed((-0.9, -0.83), (0.975 * thick, 0.99 * thick), paints.trim)
    for height in np.array([-0.62, -0.2, 0.25, 0.66]) * thick:
        ridge = np.array([(-0.74, height), (-0.36, 0.9 * height)])
        parts.append(Part(ridge, shade(paints.body, 0.5), 0.05))
        parts.append(Part(ridge - (0, 0.02), shade(paints.body, 1.3), 0.02))
    return parts


def _torch(paints: Paints, rng: Rng) -> list[Part]:
    """A knurled tube with a tail cap and a button, a flaring head and a lens seen from the side."""
    thick, wide = rng.uniform(0.17, 0.22), rng.uniform(0.34, 0.42)
    parts = lathed((-1, -0.95, -0.8), (0.8 * thick, thick, thick), paints.trim)
    parts += lathed((-0.8, 0.25), (0.92 * thick, 0.92 * thick), paints.body)
    for x in np.linspace(-0.7, -0.3, 7):
        parts.append(Part(np.array([(x, -0.86), (x, 0.86)]) * (1, thick), shade(paints.body, 0.55), 0.025))
    parts += lathed((0.18, 0.3, 0.58, 0.66), (1.05 * thick, 1.08 * thick, 0.95 * wide, wide), paints.body)
    parts += lathed((0.66, 0.84), (1.06 * wide, 1.06 * wide), paints.metal)
    glass = 0.75 + 0.25 * paints.accent
    parts += outlined(arc(0.84, 0, 0.15, 1.06 * wide), shade(paints.metal, 0.8))
    parts += outlined(arc(0.85, 0, 0.115, 0.86 * wide), glass, 0.5 * OUTLINE)
    parts += [Part(arc(0.84, 0, 0.045, 0.35 * wide), shade(glass, 1.8))]
    button = rounded(0.13, 0.085, 0.08) - np.array([0.04, 0.25 * thick])
    return parts + outlined(button, paints.accent, 0.8 * OUTLINE)


class Recipe(NamedTuple):
    """How a kind is drawn, how far it tilts (degrees), and how much of the picture's side it spans."""

    parts: Callable[[Paints, Rng], list[Part]]
    tilt: float
    least: float
    most: float


RECIPES: dict[str, Recipe] = {
    "cap": Recipe(_cap, 50, 0.5, 0.8),
    "cube": Recipe(_cube, 180, 0.4, 0.72),
    "playing cards": Recipe(_playing_cards, 180, 0.46, 0.76),
    "screwdriver": Recipe(_screwdriver, 180, 0.78, 0.96),
    "torch": Recipe(_torch, 180, 0.65, 0.95),
}


def posed(recipe: Recipe, paints: Paints, rng: Rng) -> list[Part]:
    """Turn, mirror, stretch and size the object, and put it anywhere it fits."""
    mirror_stretch = np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.92, 1.08), 1.0])
    turn = turned(np.radians(rng.uniform(-recipe.tilt, recipe.tilt)))
    parts = [replace(part, points=part.points @ (turn @ mirror_stretch).T) for part in recipe.parts(paints, rng)]
    corners = np.concatenate([part.points for part in parts])
    low, span = corners.min(axis=0) - OUTLINE, np.ptp(corners, axis=0) + 2 * OUTLINE
    scale = rng.uniform(recipe.least, recipe.most) / span.max()
    offset = rng.uniform(0, 1 - scale * span) - scale * low
    return [Part(part.points * scale + offset, part.colour, part.width * scale) for part in parts]
