"""How well a heatmap covers an object: intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.regions import mask

__all__ = ["mask_iou"]


def mask_iou(
    heats: NDArray[np.floating[Any]], masks: NDArray[np.bool_], thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """The intersection over union of an object's mask and of what is hot.

    Parameters
    ----------
    heats : (N, H, W) ndarray
        Heatmaps in [0, 1].
    masks : (N, H, W) ndarray of bool
        Where the objects are. Empty where that is not known.
    thresholds : sequence of float
        Shares of the largest heat of a map from which on a pixel is hot, 0 to 1; see `camcore.regions.mask`.

    Returns
    -------
    (len(thresholds), N) float64 ndarray
        In [0, 1]. 0 for a map without heat, NaN where the mask is empty.

    Raises
    ------
    InputError
        If heatmaps and masks are not of one shape, or a threshold is out of range.

    Examples
    --------
    >>> heats, masks = np.array([[[1.0, 0.6, 0.2]]]), np.array([[[True, False, False]]])
    >>> mask_iou(heats, masks, [0.5, 0.7])
    array([[0.5],
           [1. ]])
    """
    if heats.ndim != 3 or heats.shape != masks.shape or masks.dtype != np.bool_:
        raise InputError(
            f"heatmaps have shape {heats.shape}, masks {masks.shape} and type {masks.dtype}; expected (N, H, W) both, "
            "and masks of bool"
        )
    hot = np.stack([mask(heats, t) for t in thresholds])
    both, either = (hot & masks).sum(axis=(2, 3)), (hot | masks).sum(axis=(2, 3))
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=masks.any(axis=(1, 2)))
