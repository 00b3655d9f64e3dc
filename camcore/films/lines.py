"""Curves made ready to be drawn: smoothed, and with no more points than there are pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camcore.recording import Curve

__all__ = ["decimated", "smoothed"]

_LEAST, _PART = 8.0, 40  # the smoothing reaches over so many values, of long curves over this part of them


def smoothed(curve: Curve) -> Curve:
    """A running mean that gives older values less and less weight, and is right from the first one on.

    Values that are not finite stay, and weigh nothing.

    Examples
    --------
    >>> smoothed(Curve(np.arange(3), np.array([2.0, np.nan, 2.0]))).values.tolist()
    [2.0, nan, 2.0]
    """
    inertia = 1 - 1 / max(_LEAST, len(curve.values) / _PART)
    total = weight = 0.0
    means = curve.values.astype(np.float64)
    for n in np.flatnonzero(np.isfinite(curve.values)).tolist():
        total, weight = inertia * total + float(curve.values[n]), inertia * weight + 1
        means[n] = total / weight
    return Curve(curve.steps, means)


def decimated(curve: Curve, first: float, last: float, columns: int) -> Curve:
    """So few of a curve's own points that a chart of so many columns, from one step to another, looks the same.

    Of each column the first, the smallest, the largest and the last value stay, so no peak is lost; and which stay
    does not depend on how much of the curve is shown, so that a growing curve does not flicker.

    Examples
    --------
    >>> decimated(Curve(np.arange(8), np.array([0.0, 9, 1, 2, 3, 4, -7, 6])), 0, 8, 1).values.tolist()
    [0.0, 9.0, -7.0, 6.0]
    """
    if len(curve.values) <= 4 * columns:
        return curve
    column = np.clip((curve.steps - first) * columns // max(last - first, 1), 0, columns - 1).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    ends = np.append(starts[1:], len(column)) - 1
    kept = np.unique(np.concatenate([starts, ends, *_extremes(curve.values, column)]))
    return Curve(curve.steps[kept], curve.values[kept])


def _extremes(values: NDArray[np.float64], column: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Where the smallest and the largest finite value of each column are."""
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.lexsort((values[finite], column[finite]))]
    change = np.flatnonzero(np.diff(column[order]))
    return [order[np.append(0, change + 1)], order[np.append(change, len(order) - 1)]] if len(order) else []
