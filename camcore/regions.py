"""Masks and boxes: the connected parts of a heatmap above a threshold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

__all__ = ["Box", "boxes", "mask", "pixels_of"]


class Box(NamedTuple):
    """A box in pixels: ``x0 <= x < x1``, ``y0 <= y < y1``; ``score`` is the largest heat inside."""

    x0: int
    y0: int
    x1: int
    y1: int
    score: float


def pixels_of(view: tuple[float, float, float, float]) -> tuple[slice, slice]:
    """The rows and columns of whole pixels, at least one, of a part (x0, y0, x1, y1) of a picture.

    Examples
    --------
    >>> pixels_of((0.2, 1.0, 3.9, 1.1))
    (slice(1, 2, None), slice(0, 4, None))
    """
    x0, y0, x1, y1 = view
    return _whole(y0, y1), _whole(x0, x1)


def _whole(start: float, stop: float) -> slice:
    first = max(min(round(start), int((start + stop) / 2)), 0)
    return slice(first, max(round(stop), first + 1))


def mask(heat: NDArray[np.floating[Any]], threshold: float = 0.2) -> NDArray[np.bool_]:
    """Where the heat reaches ``threshold`` times the largest heat of its map (last two axes); nowhere if that is 0.

    Examples
    --------
    >>> mask(np.array([[0.1, 0.5], [0.0, 1.0]]))
    array([[False,  True],
           [False,  True]])
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}; expected a share of the maximum, 0 to 1")
    peak = heat.max(axis=(-2, -1), keepdims=True)
    result: NDArray[np.bool_] = (heat >= threshold * peak) & (heat > 0)
    return result


def boxes(heat: NDArray[np.floating[Any]], threshold: float = 0.2) -> list[Box]:
    """The boxes of the connected components of :func:`mask`, largest component first.

    Parameters
    ----------
    heat : (H, W) ndarray
        In [0, 1].
    threshold : float
        Share of the maximum, 0 to 1. Zhou et al. take 0.2.

    Returns
    -------
    list of Box
        Components are 8-connected. Empty for an all-zero map.

    References
    ----------
    B. Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, arXiv:1512.04150, section 3.2

    Examples
    --------
    >>> boxes(np.array([[0.0, 0.9, 1.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    [Box(x0=1, y0=0, x1=3, y1=1, score=1.0), Box(x0=0, y0=2, x1=1, y1=3, score=0.5)]
    """
    from scipy import ndimage  # slow to import, and needed only here

    if heat.ndim != 2:
        raise InputError(f"boxes need one map (H, W), got shape {heat.shape}")
    labelled, count = ndimage.label(mask(heat, threshold), structure=np.ones((3, 3), bool))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(labelled)
    order = np.argsort(-sizes, kind="stable")
    return [_box(heat, labelled, int(i), slices[i]) for i in order]


def _box(heat: NDArray[Any], labelled: NDArray[Any], index: int, where: tuple[slice, slice]) -> Box:
    rows, columns = where
    inside = labelled[where] == index + 1
    score = float(heat[where][inside].max())
    return Box(int(columns.start), int(rows.start), int(columns.stop), int(rows.stop), score)
