"""Classifiers that end in a sigmoid: the same classes are there, and have the same pixels, in PyTorch and in ONNX."""

from __future__ import annotations

from pathlib import Path

import camcore_torch
import numpy as np
import pytest
import torch
from torch import nn

import camcore


def network(hidden: bool, sigmoid: bool) -> nn.Module:
    torch.manual_seed(0)
    head = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)) if hidden else (nn.Linear(6, 4),)
    trunk = (nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*trunk, *head, *([nn.Sigmoid()] if sigmoid else [])).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's exporter, about itself
@pytest.mark.parametrize(("hidden", "ours"), [(False, True), (False, False), (True, False)])
def test_the_same_classes_and_pixels(hidden: bool, ours: bool, tmp_path: Path) -> None:
    model, path = network(hidden, True), tmp_path / "model.onnx"
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    if ours:
        assert camcore_torch.export(model, images.shape, path, labels=None, exporter="torchscript").passed
    else:
        torch.onnx.export(model, (torch.from_numpy(images),), path, dynamo=False, input_names=["x"])
    with torch.no_grad():
        chances = model(torch.from_numpy(images)).numpy()
    threshold = float(np.sort(chances, axis=None)[-8:-6].mean())  # 7 of 12: not as many in each
    here, there = (camcore.explainer(m).present(images, threshold) for m in (model, path))
    for n, (a, b) in enumerate(zip(here, there, strict=True)):
        assert a.scores_are == b.scores_are == "independent logit"
        np.testing.assert_allclose([a.probabilities[0], b.probabilities[0]], [chances[n]] * 2, atol=1e-5)
        np.testing.assert_array_equal(a.classes, b.classes)
        masks = [out.label_masks(present=threshold)[0] for out in (a, b)]
        assert (masks[0] != masks[1]).mean() < 0.01  # rounding may decide between two heats
    assert len({out.classes.shape for out in here}) > 1


def test_a_sigmoid_in_the_loss_only_is_what_independent_stands_for() -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    told = camcore.explainer(network(False, False), independent=True).present(images, 0.4)
    found = camcore.explainer(network(False, True)).present(images, 0.4)
    for a, b in zip(told, found, strict=True):
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_allclose(a.maps, b.maps, atol=1e-6)
