"""Heads for feature maps, against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_tools.training.heads import Grid, HeadName, make_head
from torch import nn

from camcore.layout import Layout


def features(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def numbers(layer: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    weight, bias = layer.weight.detach().numpy(), layer.bias  # type: ignore[union-attr, operator]
    return weight, None if bias is None else bias.detach().numpy()  # type: ignore[operator]


def test_gap_is_a_linear_layer_on_means() -> None:
    head, maps = make_head("gap", 6, 4).double(), features(3, 6, 5, 7)
    weight, bias = numbers(head.fc)  # type: ignore[arg-type]
    expected = np.stack([weight @ m.reshape(6, -1).mean(axis=1) + bias for m in maps.numpy()])
    np.testing.assert_allclose(head(maps).detach(), expected, rtol=1e-12)


@pytest.mark.parametrize(("kind", "side", "width"), [("conv1024", 3, 1024), ("maps", 1, 9)])
def test_a_convolution_comes_first(kind: HeadName, side: int, width: int) -> None:
    head, maps = make_head(kind, 2, 4, maps=9 if kind == "maps" else None).double(), features(1, 2, 4, 3)
    nn.init.normal_(head.conv.bias)  # type: ignore[union-attr, arg-type]  # not zero, as it is at first
    (kernel, bias), (weight, last) = numbers(head.conv), numbers(head.fc)  # type: ignore[arg-type]
    assert kernel.shape == (width, 2, side, side)
    padded = np.pad(maps[0].numpy(), ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))  # (2, H, W, side, side)
    convolved = np.einsum("chwij,kcij->khw", windows, kernel) + bias[:, None, None]  # type: ignore[index]
    pooled = np.maximum(convolved, 0).mean(axis=(1, 2))
    expected = weight @ pooled + (0 if last is None else last)
    np.testing.assert_allclose(head(maps).detach()[0], expected, rtol=1e-10)
    assert (last is None) == (kind == "maps")


def test_there_are_as_many_maps_as_classes_unless_said() -> None:
    assert make_head("maps", 8, 17).conv.out_channels == 17
    assert make_head("maps", 8, 17, maps=40).fc.in_features == 40


@pytest.mark.parametrize(
    ("layout", "shape"), [(Layout("last"), (2, 3, 5, 4)), (Layout("tokens", prefix=2, grid=(3, 5)), (2, 17, 4))]
)
def test_maps_of_other_layouts_are_turned(layout: Layout, shape: tuple[int, ...]) -> None:
    given = features(*shape)
    np.testing.assert_array_equal(Grid(layout, 4)(given), layout.maps(given.numpy()))
    assert make_head("gap", 4, 3, layout=layout).double()(given).shape == (2, 3)
