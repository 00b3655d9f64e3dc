"""From an explanation to pictures: overlays on what the network saw, with captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from camcore import multilabel, render, sheets
from camcore.errors import InputError
from camcore.labels import short_name
from camcore.lettering import drawn_name
from camcore.multilabel.together import PALETTE, ClassColors, blend, legend
from camcore.regions import boxes as heat_boxes
from camcore.regions import pixels_of

if TYPE_CHECKING:
    from camcore.explanation import Explanation

__all__ = ["STYLES", "name_of", "overlays", "present_lines", "seen", "sheet", "together", "top_lines"]

Pixels = NDArray[np.uint8]
STYLES = ("alpha", "matlab", "red")
_SIDE = 480  # short enough for a page, long enough that a 7x7 map looks smooth
_LARGE = 720  # of a picture that stands alone


def seen(out: Explanation, n: int, *, side: int = _SIDE) -> Pixels:
    """The part of picture ``n`` that the network saw, in the picture's own sharpness; (H, W, 3) uint8.

    ``side`` is its longer side, in pixels.
    """
    if out.pictures is None or out.views is None:
        return _to_side(_stretched(out.images[n]), side)
    pixels = out.pictures[n].pixels
    return _to_side(pixels[pixels_of(out.views[n])], side)


def _stretched(image: NDArray[Any]) -> Pixels:
    """An input array as pixels: its range stretched to 0..255; more than 3 channels are averaged."""
    channels = image if len(image) == 3 else np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    low, high = float(channels.min()), float(channels.max())
    scaled = (channels - low) / (high - low) if high > low else np.zeros_like(channels)
    return np.rint(scaled.transpose(1, 2, 0) * 255).astype(np.uint8)


def _to_side(pixels: Pixels, side: int) -> Pixels:
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    small = max(height, width) < 96  # enlarged pixels of a tiny input stay pixels
    kind = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, kind))


def overlays(
    out: Explanation,
    n: int,
    *,
    style: str = "alpha",
    cmap: str = "jet",
    alpha: float | Literal["heat"] | None = None,
    boxes: float | None = None,
    normalization: str = "minmax",
    threshold: float = 0.0,
    gain: float = 1.0,
) -> list[Pixels]:
    """The heatmaps of image ``n`` over what the network saw, one a class.

    Parameters
    ----------
    out : Explanation
    n : int
    style : {"alpha", "matlab", "red"}
        A blend; half the grey picture plus a colour map whose brightness follows the heat; or the grey picture with the
        heat in its red channel.
    cmap, alpha
        Colours of ``"alpha"``; opacity of ``"alpha"`` (0.5) and ``"red"`` (``"heat"``). With ``"heat"`` cold regions
        show the plain picture.
    boxes : float, optional
        Outline the boxes of the heatmap above this share of its maximum.
    normalization, threshold, gain
        See :meth:`Explanation.heatmaps`.
    """
    if style not in STYLES:
        raise InputError(f"style is {style!r}; expected one of {', '.join(STYLES)}")
    picture = seen(out, n)
    size = picture.shape[:2]
    heats = out[n].heatmaps(size, normalization=normalization, threshold=threshold, gain=gain)[0]
    drawn = [_drawn(picture, heat, style, cmap, alpha) for heat in heats]
    if boxes is None:
        return drawn
    return [render.draw_boxes(d, heat_boxes(h, boxes)) for d, h in zip(drawn, heats, strict=True)]


def _drawn(
    picture: Pixels, heat: NDArray[np.floating[Any]], style: str, cmap: str, alpha: float | Literal["heat"] | None
) -> Pixels:
    if style == "matlab":
        return render.matlab_overlay(picture, heat)
    if style == "red":
        return render.red_overlay(picture, heat, alpha="heat" if alpha is None else alpha)
    return render.overlay(picture, heat, cmap=cmap, alpha=0.5 if alpha is None else alpha)


def name_of(out: Explanation, index: int) -> str:
    """The short name of a class as pictures can show it: ``class 7`` where no font here has its letters."""
    return drawn_name(short_name(out.label(index)), index)


def top_lines(out: Explanation, n: int, top: int = 3) -> list[str]:
    """The best names and probabilities of image ``n``."""
    chances = out.probabilities[n]
    best = np.argsort(-chances, kind="stable")[:top]
    return sheets.caption_lines([name_of(out, int(c)) for c in best], chances[best].tolist(), top=top)


def sheet(out: Explanation, n: int, *, top: int = 3, **style: Any) -> Pixels:
    """The picture with its ``top`` classes in the caption, and beside it an overlay a class."""
    chances = out.probabilities[n]
    tiles, captions = [seen(out, n)], [top_lines(out, n, top)]
    for picture, c in zip(overlays(out, n, **style), out.classes[n].tolist(), strict=True):
        tiles.append(picture)
        captions.append([*sheets.caption_lines([name_of(out, c)], [float(chances[c])]), out.method])
    return sheets.grid(tiles, captions, columns=min(len(tiles), 6), tile=300)


def together(
    out: Explanation,
    n: int,
    *,
    threshold: float = 0.5,
    most: int = len(PALETTE),
    colors: ClassColors | None = None,
    alpha: float | Literal["heat"] = 0.85,
    outline: float | None = 0.5,
    boxes: float | None = None,
    normalization: str = "relu-max",
    floor: float = 0.0,
    gain: float = 1.0,
) -> Pixels:
    """One picture with the heat of every class that is there, each in its own colour, and their names below.

    Parameters
    ----------
    out : Explanation
        With maps of the classes that may be there; :meth:`camcore.Explainer.present` makes just these.
    n : int
    threshold : float
        The probability from which on a class counts as there.
    most : int
        Draw only so many, the most probable ones; how many more there are is said.
    colors : ClassColors, optional
        Give the same one for several pictures, and a class keeps its colour in all.
    alpha, outline
        See :func:`camcore.multilabel.together.blend`.
    boxes : float, optional
        Outline the boxes of each heatmap above this share of its maximum.
    normalization, floor, gain
        See :meth:`Explanation.heatmaps`, where the floor is called threshold.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        Where no class is there it is the picture alone, and that is said below it.
    """
    multilabel.check(threshold, most)
    one = out.only_present(n, threshold, most=most)
    classes = one.classes[0].tolist()
    paints = (colors or ClassColors()).of(classes)
    picture = seen(one, 0, side=_LARGE)
    heats = one.heatmaps(picture.shape[:2], normalization=normalization, threshold=floor, gain=gain)[0]
    drawn = blend(picture, heats, paints, alpha=alpha, outline=outline) if classes else picture
    if boxes is not None:
        for heat, paint in zip(heats, paints, strict=True):
            drawn = render.draw_boxes(drawn, heat_boxes(heat, boxes), color=paint)
    lines = _named(out, n, classes)
    return np.concatenate([drawn, legend(lines, paints, drawn.shape[1], rest=_rest(out, n, threshold, len(classes)))])


def present_lines(out: Explanation, n: int, threshold: float) -> list[str]:
    """Names and probabilities of the classes that are there and have a map, and what else is to be said."""
    classes = out.only_present(n, threshold).classes[0].tolist()
    rest = _rest(out, n, threshold, len(classes))
    return [*_named(out, n, classes), *([rest] if rest else [])]


def _named(out: Explanation, n: int, classes: list[int]) -> list[str]:
    chances = out.probabilities[n]
    return [sheets.caption_lines([name_of(out, c)], [float(chances[c])])[0] for c in classes]


def _rest(out: Explanation, n: int, threshold: float, shown: int) -> str:
    """What is to be said of classes that are not drawn."""
    there = int(out.present(threshold)[n].sum())
    if there:
        return f"and {there - shown} more" * (there > shown) if shown else f"no map of the {there} that are there"
    return f"no class reaches {threshold:.2f}; the best: {top_lines(out, n, 1)[0]}"
