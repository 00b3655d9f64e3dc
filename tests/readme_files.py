"""The files that the recipes of the README name."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from camcore_torch.exporting import to_onnx
from onnx_graphs import Graph
from PIL import Image
from torch import nn


def make(folder: Path) -> None:
    """``model.onnx``, ``inverse.onnx``, ``names.txt``, ``cat.png`` and ``dog.png``."""
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            layer1=nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU()),
            layer2=nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(8, 5),
        )
    )
    (folder / "model.onnx").write_bytes(to_onnx(model, (1, 3, 224, 224)))
    onnx.save(inverse(), folder / "inverse.onnx")
    (folder / "names.txt").write_text("cat\ndog\nhorse\ncow\nsheep\n")
    for name in ("cat", "dog"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def inverse() -> Any:
    """A network with an operator of ONNX Runtime's own that has no rule: each map is inverted as a matrix."""
    g = Graph(17)
    features = g.conv(g.image(["N", 3, 8, 8]), 3, 4)
    steep = g.add("Add", features, g.const(9 * np.eye(8)), to="features")  # no matrix is singular
    turned = g.add("Relu", g.add("Inverse", steep, domain="com.microsoft"))
    flat = g.add("Flatten", g.add("GlobalMaxPool", turned))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 4)), transB=1), ["N", 5])
    return g.model(domains=["com.microsoft"])
