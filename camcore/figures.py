"""From an explanation to pictures: overlays on what the network saw, with captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from camcore import render, sheets
from camcore.errors import InputError
from camcore.regions import boxes as heat_boxes

if TYPE_CHECKING:
    from camcore.explanation import Explanation

__all__ = ["STYLES", "overlays", "seen", "sheet", "top_lines"]

Pixels = NDArray[np.uint8]
STYLES = ("alpha", "matlab")
_SIDE = 480  # short enough for a page, long enough that a 7x7 map looks smooth


def seen(out: Explanation, n: int) -> Pixels:
    """The part of picture ``n`` that the network saw, in the picture's own sharpness; (H, W, 3) uint8."""
    if out.pictures is None or out.views is None:
        return _to_side(_stretched(out.images[n]))
    pixels = out.pictures[n].pixels
    x0, y0, x1, y1 = out.views[n]
    return _to_side(pixels[_whole(y0, y1), _whole(x0, x1)])


def _whole(start: float, stop: float) -> slice:
    """Whole pixels, at least one."""
    first = max(min(round(start), int((start + stop) / 2)), 0)
    return slice(first, max(round(stop), first + 1))


def _stretched(image: NDArray[Any]) -> Pixels:
    """An input array as pixels: its range stretched to 0..255; more than 3 channels are averaged."""
    channels = image if len(image) == 3 else np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    low, high = float(channels.min()), float(channels.max())
    scaled = (channels - low) / (high - low) if high > low else np.zeros_like(channels)
    return np.rint(scaled.transpose(1, 2, 0) * 255).astype(np.uint8)


def _to_side(pixels: Pixels) -> Pixels:
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
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
    alpha: float | Literal["heat"] = 0.5,
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
    style : {"alpha", "matlab"}
        A blend, or half the grey picture plus a colour map whose brightness follows the heat.
    cmap, alpha
        For ``"alpha"``. The opacity may be ``"heat"``: then cold regions show the plain picture.
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
    draw = render.matlab_overlay if style == "matlab" else render.overlay
    options: dict[str, Any] = {} if style == "matlab" else {"cmap": cmap, "alpha": alpha}
    drawn = [draw(picture, heat, **options) for heat in heats]
    if boxes is None:
        return drawn
    return [render.draw_boxes(d, heat_boxes(h, boxes)) for d, h in zip(drawn, heats, strict=True)]


def top_lines(out: Explanation, n: int, top: int = 3) -> list[str]:
    """The best names and probabilities of image ``n``."""
    chances = out.probabilities[n]
    best = np.argsort(-chances, kind="stable")[:top]
    return sheets.caption_lines([out.label(int(c)) for c in best], chances[best].tolist(), top=top)


def sheet(out: Explanation, n: int, *, top: int = 3, **style: Any) -> Pixels:
    """The picture with its ``top`` classes in the caption, and beside it an overlay a class."""
    chances = out.probabilities[n]
    tiles, captions = [seen(out, n)], [top_lines(out, n, top)]
    for picture, c in zip(overlays(out, n, **style), out.classes[n].tolist(), strict=True):
        tiles.append(picture)
        captions.append([*sheets.caption_lines([out.label(c)], [float(chances[c])]), out.method])
    return sheets.grid(tiles, captions, columns=min(len(tiles), 6), tile=300)
