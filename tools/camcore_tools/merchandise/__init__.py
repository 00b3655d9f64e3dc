"""Drawn pictures of five kinds of merchandise, each with an exact mask: a picture set that needs no download."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from camcore_tools.merchandise.objects import RECIPES, posed
from camcore_tools.merchandise.parts import (
    Floats,
    Paints,
    Part,
    Rng,
    arc,
    colour_apart,
    random_colour,
    random_paints,
    turned,
)

__all__ = ["KINDS", "PictureSet", "draw", "picture_set"]

KINDS = tuple(RECIPES)

_SUPERSAMPLE = 4
_LEAST_VISIBLE = 0.85


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures with their labels and object masks.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, size, size, 3)
        The pictures, RGB.
    labels : ndarray of int64, shape (N,)
        The kind of each picture, an index into `KINDS`.
    masks : ndarray of bool, shape (N, size, size)
        The visible pixels of the object in each picture.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def picture_set(
    per_kind: int, size: int = 64, *, seed: int, after_each: Callable[[], object] = lambda: None
) -> PictureSet:
    """Draw a shuffled set with the same number of pictures of every kind.

    Parameters
    ----------
    per_kind : int
        Pictures of each kind; the set holds five times as many.
    size : int
        Side of the pictures in pixels.
    seed : int
        The same seed gives the same bytes, whatever was drawn before.
    after_each : callable
        Called after each picture.

    Returns
    -------
    PictureSet
        The pictures in shuffled order.
    """
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(KINDS), dtype=np.int64), per_kind))
    drawn = []
    for i, kind in enumerate(labels):
        drawn.append(draw(KINDS[kind], size, rng=np.random.default_rng((seed, i))))
        after_each()
    images = np.array([image for image, _ in drawn], np.uint8).reshape(-1, size, size, 3)
    masks = np.array([mask for _, mask in drawn], np.bool_).reshape(-1, size, size)
    return PictureSet(images, labels, masks)


def draw(kind: str, size: int = 64, *, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one picture of one kind of merchandise.

    The colours and everything around the object depend on `rng` alone, so that two kinds drawn from equal
    generators differ in the object (and its soft shadow) and nowhere else.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    size : int
        Side of the picture in pixels.
    rng : numpy.random.Generator
        Source of pose, colours, background and distractors; advanced by the same amount for every kind.

    Returns
    -------
    image : ndarray of uint8, shape (size, size, 3)
        The picture, RGB.
    mask : ndarray of bool, shape (size, size)
        The pixels of which the object shows in more than half.

    Raises
    ------
    ValueError
        If `kind` is none of the five.
    """
    if kind not in RECIPES:
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(map(repr, KINDS))}")
    words = rng.integers(2**63, size=4)
    for_paints, for_scene, for_object, for_grain = (np.random.default_rng(word) for word in words)
    paints = random_paints(for_paints)
    distractors = [_distractor(for_scene, paints) for _ in range(for_scene.integers(2, 7))]
    scene = _over(_background(size, for_scene, paints), _raster(distractors, size))
    thing = _lit(_raster(posed(RECIPES[kind], paints, for_object), size), for_object)
    scene = _shadowed(scene, thing.coverage)
    thing, visible = _partly_hidden(thing, _raster(distractors[-1:], size))
    picture = _over(scene, thing)
    picture = picture + for_grain.normal(0, for_grain.uniform(0, 0.025), (size, size, 1))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), visible > 0.5


# ---- layers: parts as pixels


class _Layer(NamedTuple):
    """Colour already multiplied by coverage, as area averaging gives it."""

    colour: Floats
    coverage: Floats


def _raster(parts: Iterable[Part], size: int) -> _Layer:
    """Rasterise parts whose coordinates span the picture from 0 to 1."""
    side = size * _SUPERSAMPLE
    colour, coverage = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    for part in parts:
        corners = (part.points * side).ravel().tolist()
        red, green, blue = (np.clip(part.colour, 0, 1) * 255).astype(int).tolist()
        for image, ink in ((colour, (red, green, blue)), (coverage, (255,))):
            if part.width:
                ImageDraw.Draw(image).line(corners, ink, max(1, round(part.width * side)), joint="curve")
            else:
                ImageDraw.Draw(image).polygon(corners, ink)
    return _Layer(*(np.asarray(image.reduce(_SUPERSAMPLE), np.float64) / 255 for image in (colour, coverage)))


def _over(below: Floats, layer: _Layer) -> Floats:
    return below * (1 - layer.coverage[..., None]) + layer.colour


def _partly_hidden(thing: _Layer, front: _Layer) -> tuple[_Layer, Floats]:
    """Lay a distractor over the object, unless it hides too much of it; also return the object's visible share."""
    visible = thing.coverage * (1 - front.coverage)
    if visible.sum() < _LEAST_VISIBLE * thing.coverage.sum():
        return thing, thing.coverage
    # Inside the object's outline only: the scene already holds the distractor, drawn twice its edges would thicken.
    colour = thing.colour * (1 - front.coverage[..., None]) + front.colour * thing.coverage[..., None]
    return _Layer(colour, thing.coverage), visible


def _shadowed(scene: Floats, coverage: Floats) -> Floats:
    """Let the object cast a soft shadow down to the right, blurred by way of a coarse grid."""
    step = max(1, round(0.02 * len(coverage)))
    plane = Image.fromarray(np.pad(coverage, ((step, 0), (step, 0)))[:-step, :-step].astype(np.float32))
    soft = plane.resize((24, 24), Image.Resampling.BOX).resize(plane.size, Image.Resampling.BICUBIC)
    return scene * (1 - 0.4 * np.clip(np.asarray(soft, np.float64), 0, 1)[..., None])


def _lit(layer: _Layer, rng: Rng) -> _Layer:
    """Let the light fall from a random side."""
    across, down = _grid(len(layer.coverage)) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.3 * (np.cos(angle) * across + np.sin(angle) * down)
    return _Layer(np.minimum(layer.colour * light[..., None], layer.coverage[..., None]), layer.coverage)


def _grid(size: int) -> Floats:
    """The x and y of every pixel centre, from 0 to 1."""
    steps = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(steps, steps))


# ---- backgrounds and distractors


def _background(size: int, rng: Rng, paints: Paints) -> Floats:
    """Two colours in a pattern, with a dim patch as of something outside the picture."""
    across, down = _grid(size)
    first = colour_apart(rng, paints.body, paints.metal)
    second = first + rng.uniform(0.25, 0.8) * (random_colour(rng) - first)
    blend = np.clip(_pattern(across, down, rng), 0, 1)[..., None]
    x, y, radius = rng.uniform((0, 0, 0.1), (1, 1, 0.3))
    gloom = 0.35 * np.exp(-((across - x) ** 2 + (2 * (down - y)) ** 2) / radius**2)[..., None]
    return np.asarray((first + (second - first) * blend) * (1 - gloom))


def _pattern(x: Floats, y: Floats, rng: Rng) -> Floats:
    """A plain ground, slope, stripes, checker, blobs or wood, along turned axes u and v."""
    u, v = np.tensordot(turned(rng.uniform(0, 2 * np.pi)), np.stack([x, y]) - 0.5, 1)
    pitch, style = rng.uniform(12, 40), rng.integers(6)
    if style < 2:
        return np.asarray(style * (u + 0.5))
    if style == 2:
        return np.asarray(0.5 + 3 * np.sin(pitch * u))
    if style == 3:
        return np.asarray(0.5 + 6 * np.sin(0.7 * pitch * u) * np.sin(0.7 * pitch * v))
    if style == 4:
        cells = Image.fromarray(rng.random((9, 9)).astype(np.float32))
        smooth = np.asarray(cells.resize(x.shape[::-1], Image.Resampling.BICUBIC), np.float64)
        return (smooth - 0.5) * rng.uniform(1, 6) + 0.5
    bend = rng.uniform(0.02, 0.08) * np.sin(rng.uniform(3, 7) * u + rng.uniform(0, 6))
    rings = np.sin(1.5 * pitch * (v + bend)) + 0.5 * np.sin(4 * pitch * (v + 0.8 * bend))
    planks = np.abs((v * rng.integers(2, 5) + rng.random()) % 1 - 0.5) < 0.03
    return np.asarray(0.4 + 0.25 * rings + planks)


def _distractor(rng: Rng, paints: Paints) -> Part:
    """A disc, bar, triangle or squiggle somewhere in the picture, in one of the object's colours or another."""
    shape, radius, turn = rng.integers(4), rng.uniform(0.025, 0.09), rng.uniform(0, 2 * np.pi)
    colour = (paints.body, paints.trim, paints.metal, random_colour(rng), random_colour(rng))[rng.integers(5)]
    wave = np.linspace(-3, 3, 30)
    outline = (
        arc(0, 0, 1, 1),
        np.array([(-2.2, -0.35), (2.2, -0.35), (2.2, 0.35), (-2.2, 0.35)]),
        arc(0, 0, 1.2, 1.2, steps=4),
        np.stack([wave * 0.8, np.sin(2 * wave) * 0.6], axis=1),
    )[shape]
    points = outline @ turned(turn).T * radius + rng.random(2)
    return Part(points, colour, 0.35 * radius if shape == 3 else 0.0)
