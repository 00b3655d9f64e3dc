"""Several classes in one picture: which of them are there, and to which one each pixel belongs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.errors import InputError

__all__ = ["FEW", "MOST", "check", "check_score", "in_order", "label_mask", "present", "strongest"]

Floats = NDArray[np.floating[Any]]

MOST = 16  # classes that are explained of one image
FEW = 4  # so many are explained at once where that is free, before it is known how many there are


def present(chances: Floats, threshold: float = 0.5) -> NDArray[np.bool_]:
    """Where a probability reaches a threshold; NaN never does.

    Parameters
    ----------
    chances : (..., K) ndarray
    threshold : float
        Both in [0, 1].

    Returns
    -------
    (..., K) bool ndarray

    Examples
    --------
    >>> present(np.array([[0.7, 0.1, 0.5]]))
    array([[ True, False,  True]])
    """
    check(threshold)
    result: NDArray[np.bool_] = chances >= threshold
    return result


def check(threshold: float, most: int | None = None) -> None:
    """Refuse a threshold that is no probability, and a number of classes below 1."""
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}; expected a probability, 0 to 1")
    if most is not None and (not isinstance(most, (int, np.integer)) or most < 1):
        raise InputError(f"most is {most!r}; expected a number of classes, whole and at least 1")


def check_score(threshold: float) -> None:
    """Refuse a background score that leaves no room for any class."""
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold}; expected the score of the background, from 0 to below 1")


def in_order(chances: Floats, classes: Sequence[int], threshold: float, most: int | None = None) -> list[int]:
    """The places in ``classes`` of those that are there, the most probable first.

    Parameters
    ----------
    chances : (K,) ndarray
        Of one image.
    classes : sequence of int
        Those that have maps; of a class named twice the first place is taken.
    threshold : float
    most : int
        At most so many.

    Examples
    --------
    >>> in_order(np.array([0.6, 0.1, 0.9]), [0, 1, 2, 0], 0.5)
    [2, 0]
    """
    there = present(chances, threshold)
    places = {c: i for i, c in reversed([*enumerate(classes)]) if there[c]}
    return sorted(places.values(), key=lambda i: (-chances[classes[i]], i))[:most]


def label_mask(heats: ArrayLike, classes: ArrayLike, *, threshold: float = 0.2) -> NDArray[np.int32]:
    """To each pixel the class of the strongest heat above a threshold.

    The pseudo-masks of weakly supervised segmentation: the argmax over a constant background score and the maps of the
    classes that are known to be there, each divided by its maximum (``normalization="relu-max"``).

    Parameters
    ----------
    heats : (T, H, W) array_like
        In [0, 1], one map a class; also of one or three spatial axes. NaN counts as 0.
    classes : (T,) array_like of int
        Whose maps they are. May be empty.
    threshold : float
        The background score, in [0, 1). Usual are 0.15 (IRN) to 0.21 (ReCAM).

    Returns
    -------
    (H, W) int32 ndarray
        0 is background, else the class + 1. Where two heats are equal it is the class that comes first, and heat just
        at the threshold is background.

    Raises
    ------
    InputError
        If there is not one map for each class, or for a threshold out of range.

    References
    ----------
    J. Ahn et al., "Weakly supervised learning of instance segmentation with inter-pixel relations", CVPR 2019,
    arXiv:1904.05044, section 3.2

    Examples
    --------
    >>> label_mask([[[0.9, 0.3, 0.1]], [[0.0, 0.6, 0.2]]], [4, 7])
    array([[5, 8, 0]], dtype=int32)
    """
    heats, classes = np.asarray(heats), np.asarray(classes, np.int64)
    _check(heats, classes, threshold)
    return np.array([0, *(classes + 1)], np.int32)[strongest(heats, threshold, heats.shape[1:])]


def strongest(heats: Iterable[Floats], threshold: float, size: tuple[int, ...]) -> NDArray[np.int32]:
    """To each place the number, from 1 on, of the map with the largest heat above a threshold; 0 where there is none.

    ``heats`` may come one at a time: no more than one is held.
    """
    check_score(threshold)
    best, found = np.full(size, threshold, np.float32), np.zeros(size, np.int32)
    for number, heat in enumerate(heats, start=1):
        stronger = heat > best
        found[stronger] = number
        best[stronger] = heat[stronger]
    return found


def _check(heats: NDArray[Any], classes: NDArray[np.int64], threshold: float) -> None:
    check_score(threshold)
    if heats.ndim < 2 or classes.shape != heats.shape[:1]:
        raise InputError(
            f"heats have shape {heats.shape} for classes of shape {classes.shape}; expected one map for each class, "
            "(T, H, W) and (T,): give the images one at a time"
        )
