"""Heads for feature maps: a pooled linear one, behind a convolution where that is asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from camcore.layout import Layout

__all__ = ["HEADS", "Grid", "HeadName", "make_head"]

HeadName = Literal["auto", "gap", "conv1024", "maps"]
HEADS: tuple[HeadName, ...] = ("auto", "gap", "conv1024", "maps")


class Grid(nn.Module):
    """Maps of any layout as (N, C, H, W): channels that come last, or a row of tokens without those in front."""

    def __init__(self, layout: Layout, channels: int) -> None:
        super().__init__()
        self.layout, self.channels = layout, channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, H, W, C) or (N, T, C) features to (N, C, H, W) maps."""
        if self.layout.kind == "tokens":
            # Plain numbers: what TorchScript makes of others has no shape in ONNX.
            features = features[:, self.layout.prefix :].reshape(-1, *self.layout.grid, self.channels)
        return features.permute(0, 3, 1, 2)


def make_head(
    kind: HeadName, channels: int, classes: int, *, layout: Layout | None = None, maps: int | None = None
) -> nn.Sequential:
    """Feature maps to scores.

    Parameters
    ----------
    kind : {"gap", "conv1024", "maps"}
        ``gap``: global average pooling and a linear layer. ``conv1024``: in front of it a 3x3 convolution to 1024 maps
        and ReLU. ``maps``: a 1x1 convolution to ``maps`` maps and ReLU, and a linear layer without bias.
    channels, classes : int
        What comes in, and how many scores go out.
    layout : Layout, optional
        How the features lie; channels first where absent.
    maps : int, optional
        For ``maps``; as many as classes where absent.

    Returns
    -------
    nn.Sequential
        Its layers are ``grid``, ``conv``, ``relu`` (as needed), ``pool``, ``flatten`` and ``fc``.

    References
    ----------
    B. Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, arXiv:1512.04150, section 3
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if layout is not None and layout.kind != "first":
        layers["grid"] = Grid(layout, channels)
    width = channels
    if kind in ("conv1024", "maps"):
        width, side = (1024, 3) if kind == "conv1024" else (maps or classes, 1)
        layers["conv"] = _convolution(channels, width, side)
        layers["relu"] = nn.ReLU()
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["fc"] = nn.Linear(width, classes, bias=kind != "maps")
    return nn.Sequential(layers)


def _convolution(inward: int, outward: int, side: int) -> nn.Conv2d:
    """He's initialisation: PyTorch's own would halve the variance at each layer of ReLU."""
    layer = nn.Conv2d(inward, outward, side, padding=side // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None  # it has one
    nn.init.zeros_(layer.bias)
    return layer
