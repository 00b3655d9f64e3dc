"""What kind of curve a curve of a training is, as far as that changes how it is drawn."""

from __future__ import annotations

import re

import numpy as np

from camcore.recording import Curve

__all__ = ["as_shares", "is_rough"]

_FEW = 60  # values; so many are read as they are

_SHARE = re.compile(
    r"acc|top.?\d|share|right|correct|precision|recall|sensitivity|specificity|inside|jaccard|"
    r"(?<![a-z])(m?iou|dice|f1|auc|auroc|hits?)(?![a-z0-9])",
    re.IGNORECASE,
)


def is_rough(curve: Curve) -> bool:
    """Whether a curve is better read when smoothed: 60 values or more that go up and down over three times their range.

    Examples
    --------
    >>> steps = np.arange(100)
    >>> is_rough(Curve(steps, np.sqrt(steps))), is_rough(Curve(steps, steps % 2.0))
    (False, True)
    """
    known = curve.values[np.isfinite(curve.values)]
    if len(known) < _FEW:
        return False
    scaled = known / max(1.0, np.abs(known).max())  # the sum of the largest numbers would overflow
    return bool(np.abs(np.diff(scaled)).sum() > 3 * np.ptp(scaled))


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
