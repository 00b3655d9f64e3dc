"""The built-in network on the built-in pictures: it learns, and what it looks at is the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from camcore_tools.demo.measure import RULE, inputs, peaks_on
from camcore_tools.merchandise import KINDS, PictureSet, picture_set
from camcore_tools.training.job import recipe
from camcore_tools.training.loop import Training
from camcore_tools.training.pictures import PictureArray, Split
from camcore_tools.training.small import make_network
from torch import nn

import camcore
from camcore.overlap import mask_iou

LAYERS = ["blocks.0", "blocks.1", "blocks.2"]


@dataclass(frozen=True)
class Learned:
    network: nn.Module
    top1: float
    validation: PictureSet

    def explained(self, **options: Any) -> camcore.Explanation:
        explain = camcore.explainer(self.network, device="cpu", **options)
        return explain(inputs(self.validation.images), self.validation.labels)

    def best_iou(self, **options: Any) -> float:
        """Of the thresholds the one that does best for the method, as is usual for such maps."""
        heats = self.explained(**options).heatmaps()[:, 0]
        found = mask_iou(heats, self.validation.masks, np.arange(0.1, 0.9, 0.05).tolist())
        return float(found.mean(axis=1).max())


def learned(each: int, validation: int) -> Learned:
    sets = [picture_set(count, 64, seed=seed) for count, seed in ((each, 1), (validation, 2))]
    train, held_out = (PictureArray(s.images, s.labels, KINDS, [str(n) for n in range(len(s.labels))]) for s in sets)
    training = Training(make_network(len(KINDS), seed=0), Split(train, held_out), recipe("small"), RULE)
    training.run()
    return Learned(training.network, training.history[-1].top1, sets[1])


@pytest.mark.slow
def test_it_looks_at_the_objects() -> None:
    found = learned(300, 100)
    out = found.explained()
    right = out.scores.argmax(axis=1) == found.validation.labels
    on_object = peaks_on(out.heatmaps()[:, 0], found.validation.masks)
    assert found.top1 >= 0.95
    assert on_object[right].mean() >= 0.9
    assert found.best_iou(method="layercam", layer=LAYERS) > found.best_iou(method="cam")
