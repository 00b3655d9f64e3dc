"""Intersection over union of heat and masks, against sets of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from camcore.errors import InputError
from camcore.overlap import mask_iou


def test_it_is_the_ratio_of_two_sets_of_pixels() -> None:
    generator = np.random.default_rng(0)
    heats, masks = generator.random((5, 6, 7)), generator.random((5, 6, 7)) < 0.4
    thresholds = (0.2, 0.5, 1.0)
    found = mask_iou(heats, masks, thresholds)
    for t, threshold in enumerate(thresholds):
        for n, heat in enumerate(heats):
            hot = {(y, x) for y, x in np.ndindex(heat.shape) if heat[y, x] >= threshold * heat.max()}
            inside = {(y, x) for y, x in np.ndindex(heat.shape) if masks[n, y, x]}
            assert found[t, n] == len(hot & inside) / len(hot | inside)


def test_no_heat_covers_nothing_and_no_mask_says_nothing() -> None:
    heats, masks = np.zeros((2, 2, 2)), np.array([[[True, False], [False, False]], [[False, False], [False, False]]])
    np.testing.assert_array_equal(mask_iou(heats, masks, [0.5]), [[0, np.nan]])


def test_what_does_not_belong_together_is_answered() -> None:
    with pytest.raises(InputError, match=r"heatmaps have shape \(1, 2, 2\), masks \(1, 2, 3\) and type bool"):
        mask_iou(np.zeros((1, 2, 2)), np.zeros((1, 2, 3), bool), [0.5])
    with pytest.raises(InputError, match="type float64; expected"):
        mask_iou(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), [0.5])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"threshold is 1.5; expected a share"):
        mask_iou(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), [1.5])
