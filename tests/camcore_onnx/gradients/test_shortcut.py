"""The mean gradient by a summed matrix: the same as the mean of the gradient, and nowhere else than where it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients.add import gradient_model
from camcore_torch.exporting import to_onnx
from torch import nn

import camcore

POOLS: dict[str, nn.Module] = {
    "none": nn.Identity(),
    "max": nn.MaxPool2d(2),
    "overlapping max": nn.MaxPool2d(3, 2, padding=1),
    "average": nn.AvgPool2d(2),
    "average beside its padding": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "average with its padding": nn.AvgPool2d(3, 2, padding=1, count_include_pad=True),
    "adaptive": nn.AdaptiveAvgPool2d(4),
}


class Flat(nn.Module):
    """A convolution, a pooling, and linear layers that read the whole map."""

    def __init__(self, pool: nn.Module, *, skip: bool = False) -> None:
        super().__init__()
        self.conv, self.pool, self.skip = nn.Conv2d(3, 6, 3, padding=1), pool, skip
        with torch.no_grad():
            width = self.pool(self.conv(torch.zeros(1, 3, 8, 8))).flatten(1).shape[1]
        self.hidden, self.head = nn.Linear(width, 7), nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z = self.hidden(self.pool(y).flatten(1))
        return self.head(torch.tanh(z + y.mean((1, 2, 3))[:, None] if self.skip else z))


def _nodes(model: nn.Module, maps: str = "gradcam") -> tuple[list[str], float]:
    """The operators that the gradient takes, and how far the map is from PyTorch's."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8)
    data = to_onnx(model.eval(), (1, 3, 8, 8), exporter="torchscript")
    expected = camcore.explainer(model, method=maps, layer="conv")(images).maps
    found = camcore.explainer(data, method=maps, layer="conv", device="cpu")(images).maps
    built = gradient_model(OnnxBackend(data, device="cpu"), ["conv"], maps=maps)
    written = [node.op_type for node in built.model.graph if (node.name or "").startswith("grad/")]
    return written, float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("pool", POOLS)
def test_grad_cam_is_the_same(pool: str) -> None:
    torch.manual_seed(1)
    written, error = _nodes(Flat(POOLS[pool]))
    assert error < 1e-5
    spread = {"Conv", "ConvTranspose", "Greater", "Equal"} & set(written)
    assert not spread or pool == "average with its padding"  # there a sum over positions is not kept


@pytest.mark.parametrize("maps", ["layercam", "gradcam++", "xgradcam"])
def test_other_methods_see_the_whole_gradient(maps: str) -> None:
    torch.manual_seed(1)
    assert _nodes(Flat(POOLS["max"]), maps)[1] < 1e-5


@pytest.mark.parametrize("maps", ["gradcam", "layercam"])
def test_a_layer_that_is_read_twice(maps: str) -> None:
    torch.manual_seed(1)
    assert _nodes(Flat(POOLS["max"], skip=True), maps)[1] < 1e-5


def test_of_several_classes() -> None:
    torch.manual_seed(1)
    model, images = Flat(POOLS["overlapping max"]).eval(), torch.randn(2, 3, 8, 8)
    about: dict[str, Any] = {"method": "gradcam", "layer": "conv", "target": "probability"}
    expected = camcore.explainer(model, **about)(images, "top3").maps
    data = to_onnx(model, (1, 3, 8, 8), exporter="torchscript")
    found = camcore.explainer(data, device="cpu", **about)(images, "top3").maps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
