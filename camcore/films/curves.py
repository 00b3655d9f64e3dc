"""Curves of a training made fit to be drawn: smoothed, thinned without losing an extreme, told from one another."""

from __future__ import annotations

import re

import numpy as np

from camcore.recording import Curve

__all__ = ["as_shares", "decimated", "smoothed"]

_SHARE = re.compile(
    r"acc|top.?\d|share|right|correct|precision|recall|sensitivity|specificity|inside|jaccard|"
    r"(?<![a-z])(m?iou|dice|f1|auc|auroc|hits?)(?![a-z])",
    re.IGNORECASE,
)


def decimated(curve: Curve, most: int = 1000) -> Curve:
    """At most so many points: of each stretch the first, the lowest, the highest and the last.

    Values that are not finite are left out. A line through the points covers the same pixels as one through all.

    Examples
    --------
    >>> spike = Curve(np.arange(5000), np.where(np.arange(5000) == 500, 9.0, 1.0))
    >>> thin = decimated(spike, 40)
    >>> len(thin.steps) <= 40, thin.values.max(), thin.steps[[0, -1]].tolist()
    (True, 9.0, [0, 4999])
    """
    known = np.isfinite(curve.values)
    steps, values = curve.steps[known], curve.values[known]
    if len(steps) <= most:
        return Curve(steps, values)
    kept = set[int]()
    for part in np.array_split(np.arange(len(steps)), max(1, most // 4)):
        kept.update((int(part[0]), int(part[values[part].argmin()]), int(part[values[part].argmax()]), int(part[-1])))
    chosen = np.array(sorted(kept))
    return Curve(steps[chosen], values[chosen])


def smoothed(curve: Curve) -> Curve:
    """A running mean that forgets: older values weigh less and less, and it is right from the first value on.

    It looks back over about ten values, of long curves over a fiftieth of them; those not finite are left out.

    Examples
    --------
    >>> smoothed(Curve(np.arange(3), np.array([4.0, np.nan, 4.0]))).values
    array([4., 4.])
    """
    known = np.isfinite(curve.values)
    inertia = 1 - 1 / max(10.0, float(known.sum()) / 50)
    total = weight = 0.0
    means = []
    for value in curve.values[known].tolist():
        total, weight = inertia * total + value, inertia * weight + 1
        means.append(total / weight)
    return Curve(curve.steps[known], np.array(means, np.float64))


def as_shares(name: str, curve: Curve) -> Curve | None:
    """A curve within [0, 1] if its name is that of a share (accuracy, top5, IoU ...); percents are divided by 100.

    None for any other: a learning rate lies within [0, 1] as well.

    Examples
    --------
    >>> as_shares("val_acc", Curve(np.arange(2), np.array([20.0, 90.0]))).values
    array([0.2, 0.9])
    """
    known = curve.values[np.isfinite(curve.values)]
    if not _SHARE.search(name) or len(known) == 0 or known.min() < 0 or known.max() > 100:
        return None
    return curve if known.max() <= 1 else Curve(curve.steps, curve.values / 100)
