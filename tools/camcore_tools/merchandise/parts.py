"""Flat coloured parts that pictures are drawn from: their colours and their outlines."""

import colorsys
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Rng: TypeAlias = np.random.Generator

__all__ = [
    "OUTLINE",
    "Floats",
    "Paints",
    "Part",
    "Rng",
    "arc",
    "colour_apart",
    "lathed",
    "outlined",
    "random_colour",
    "random_paints",
    "rounded",
    "shade",
    "turned",
]

OUTLINE = 0.035


@dataclass(frozen=True)
class Part:
    """A filled polygon, or a polyline where it has a width."""

    points: Floats
    colour: Floats
    width: float = 0.0


# ---- colours: one distribution for all kinds, so that colour does not give the kind away


@dataclass(frozen=True)
class Paints:
    """The colours of one object."""

    body: Floats
    trim: Floats
    accent: Floats
    metal: Floats


def random_paints(rng: Rng) -> Paints:
    """Three colours well apart, and a metal."""
    body = random_colour(rng)
    trim = colour_apart(rng, body)
    accent = colour_apart(rng, body, trim)
    return Paints(body, trim, accent, 0.55 * rng.uniform(0.6, 1.2) + 0.3 * (random_colour(rng) - 0.3))


def random_colour(rng: Rng) -> Floats:
    """A pale colour or a full one, as RGB in [0, 1]."""
    pale = rng.random() < 0.3
    saturation, value = (rng.uniform(0, 0.25), rng.uniform(0.8, 1)) if pale else rng.uniform((0.3, 0.3), (0.9, 1))
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, value))


def colour_apart(rng: Rng, *others: Floats) -> Floats:
    """The one of a few random colours that is farthest from its nearest other."""
    tries = [random_colour(rng) for _ in range(6)]
    return max(tries, key=lambda colour: min(float(np.abs(colour - other).sum()) for other in others))


def shade(colour: Floats, factor: float) -> Floats:
    """Darken below 1, mix with white above."""
    return colour * factor if factor <= 1 else 1 - (1 - colour) * (2 - factor)


# ---- outlines


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, steps: int = 30) -> Floats:
    """Points on an ellipse around (x, y), between two angles in degrees."""
    angles = np.radians(np.linspace(start, stop, steps))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def rounded(half_width: float, half_height: float, radius: float) -> Floats:
    """A rectangle around the origin with rounded corners."""
    x, y = half_width - radius, half_height - radius
    corners = ((x, y, 0), (-x, y, 90), (-x, -y, 180), (x, -y, 270))
    return np.concatenate([arc(cx, cy, radius, radius, turn, turn + 90, 6) for cx, cy, turn in corners])


def turned(angle: float) -> Floats:
    """The matrix that turns by ``angle`` radians."""
    return np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])


def outlined(points: Floats, colour: Floats, width: float = OUTLINE) -> list[Part]:
    """A polygon with a dark line around it."""
    return [Part(points, colour), Part(np.concatenate([points, points[:2]]), shade(colour, 0.45), width)]


def lathed(along: ArrayLike, radius: ArrayLike, colour: Floats) -> list[Part]:
    """A body turned about the x axis, shaded in strips like a lit cylinder."""
    x, r = np.asarray(along, np.float64), np.asarray(radius, np.float64)

    def strip(low: float, high: float) -> Floats:
        return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([low * r, high * r[::-1]])], axis=1)

    parts = outlined(strip(-1, 1), colour, 1.6 * OUTLINE)
    for low, high in pairwise(np.linspace(-1, 1, 10)):
        light = 0.62 + 0.75 * np.exp(-(((low + high) / 2 + 0.35) ** 2) / 0.2)
        parts.append(Part(strip(low, high), shade(colour, light)))
    return parts
