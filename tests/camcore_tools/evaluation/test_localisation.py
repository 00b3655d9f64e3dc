"""Maps compared with masks: means over the right pictures, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from camcore_tools.evaluation import localisation
from camcore_tools.evaluation.localisation import THRESHOLDS, localise
from tiny_training import RULE, SIDE, pictures, tiny

import camcore
from camcore.drift import energy_inside, peaks_inside
from camcore.overlap import mask_iou


def test_means_are_of_the_pictures_whose_object_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, explainer = pictures(4, seed=0), camcore.explainer(tiny())
    masks = np.random.default_rng(0).random((12, SIDE, SIDE)) < 0.2
    masks[5] = False
    right = np.arange(12) % 2 == 0
    numbers = np.array([11, 0, 5, 3, 8, 2, 7])
    monkeypatch.setattr(localisation, "_BATCH", 3)
    found = localise(explainer, drawn, masks, right, RULE, threshold=0.37, numbers=numbers)
    known = np.array([11, 0, 3, 8, 2, 7])
    images = np.stack([RULE.values(p) for p in drawn.pixels(known)])
    out = explainer(images, drawn.labels[known][:, None])
    peaks, heats = peaks_inside(out.maps[:, 0], masks[known]), out.heatmaps()[:, 0]
    assert found.pictures == 6
    assert found.peaks == pytest.approx(peaks.mean())
    assert found.right_peaks == pytest.approx(peaks[right[known]].mean())
    assert found.energy == pytest.approx(energy_inside(out.maps[:, 0], masks[known]).mean())
    assert set(found.iou) == {*THRESHOLDS, 0.37}
    for threshold in (0.37, 0.5):
        assert found.iou[threshold] == pytest.approx(mask_iou(heats, masks[known], [threshold]).mean())
    assert found.iou[found.best_threshold] == max(found.iou.values())


def test_without_a_right_answer_there_is_no_mean_of_right_ones() -> None:
    drawn, masks = pictures(1, seed=0), np.ones((3, SIDE, SIDE), bool)
    wrong = np.zeros(3, bool)
    found = localise(camcore.explainer(tiny()), drawn, masks, wrong, RULE, threshold=0.5, numbers=np.arange(3))
    assert np.isnan(found.right_peaks)
    assert found.energy == pytest.approx(1)
