"""A layer that hands on a turned map: exporters cancel that with what others do to it, gradients must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_torch.exporting import to_onnx

import camcore


class _Turned(torch.nn.Module):
    """Gives its map with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).permute(0, 2, 3, 1)


class _ReadBothWays(torch.nn.Module):
    """Reads a turned map as it is and turned back, which an exporter takes for the map before."""

    def __init__(self) -> None:
        super().__init__()
        self.turned, self.norm = _Turned(), torch.nn.LayerNorm(8)
        self.conv, self.head = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.turned(x)
        z = self.norm(y).permute(0, 3, 1, 2).relu() * self.conv(y.permute(0, 3, 1, 2)).tanh()
        return self.head(z.mean((2, 3)))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_turned_layer_that_others_read_both_ways(exporter: str, method: str) -> None:
    torch.manual_seed(0)
    model, images = _ReadBothWays().eval(), torch.randn(2, 3, 8, 8)
    data = to_onnx(model, (1, 3, 8, 8), exporter=exporter)
    expected = camcore.explainer(model, method=method, layer="turned")(images).maps
    found = camcore.explainer(data, method=method, layer="turned", device="cpu")(images).maps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
