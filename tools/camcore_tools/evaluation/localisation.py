"""How well the maps of each method find the object, where masks say where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.drift import energy_inside, peaks_inside
from camcore.engine import Explainer
from camcore.overlap import mask_iou
from camcore.preprocess import Preprocess
from camcore_tools.training.pictures import Pictures

__all__ = ["THRESHOLDS", "Localisation", "localise"]

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(1, 20))
_BATCH = 16


@dataclass(frozen=True)
class Localisation:
    """Means over pictures, of the maps of their true classes.

    Attributes
    ----------
    pictures : int
        Those whose mask is not empty.
    peaks, energy : float
        Share of the peaks, and of the positive heat, that lies on the object: see `camcore.drift`.
    right_peaks : float
        Share of the peaks of the pictures that the network is right about; NaN if there is none.
    iou : dict
        Threshold -> mean intersection over union with the mask: see `camcore.overlap.mask_iou`.
    """

    pictures: int
    peaks: float
    right_peaks: float
    energy: float
    iou: Mapping[float, float]

    @property
    def best_threshold(self) -> float:
        """That of the highest mean intersection over union; of several the lowest."""
        return max(self.iou, key=lambda t: (self.iou[t], -t))


def localise(
    explainer: Explainer,
    pictures: Pictures,
    masks: NDArray[np.bool_],
    right: NDArray[np.bool_],
    rule: Preprocess,
    *,
    threshold: float,
    numbers: NDArray[np.int64],
    after: Callable[[int], object] = lambda count: None,
) -> Localisation:
    """Compare maps with masks.

    Parameters
    ----------
    explainer : Explainer
    pictures : Pictures
    masks : (N, H, W) bool ndarray
        Of all pictures, as the network sees them.
    right : (N,) bool ndarray
        Whether the network is right.
    rule : Preprocess
    threshold : float
        One for the intersection over union, besides `THRESHOLDS`.
    numbers : (n,) int64 ndarray
        The pictures that are looked at.
    after : callable
        Is told of each batch.
    """
    levels = tuple(sorted({*THRESHOLDS, threshold}))
    parts: list[NDArray[np.float64]] = []
    for start in range(0, len(numbers), _BATCH):
        chosen = numbers[start : start + _BATCH]
        images = np.stack([rule.values(p) for p in pictures.pixels(chosen)])
        out = explainer(images, pictures.labels[chosen][:, None])
        parts.append(_compared(out.maps[:, 0], out.heatmaps(masks.shape[1:])[:, 0], masks[chosen], levels))
        after(len(chosen))
    peaks, energy, *iou = np.concatenate(parts, axis=1)
    known = masks[numbers].any(axis=(1, 2))
    means = {t: _mean(values[known]) for t, values in zip(levels, iou, strict=True)}
    return Localisation(
        int(known.sum()), _mean(peaks[known]), _mean(peaks[known & right[numbers]]), _mean(energy[known]), means
    )


def _compared(
    maps: NDArray[np.floating[Any]],
    heats: NDArray[np.float32],
    masks: NDArray[np.bool_],
    levels: tuple[float, ...],
) -> NDArray[np.float64]:
    """(2 + thresholds, n): peaks, energy, and intersection over union at each threshold."""
    return np.stack([peaks_inside(maps, masks), energy_inside(maps, masks), *mask_iou(heats, masks, levels)])


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
