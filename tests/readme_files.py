"""The files that the recipes of the README name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from camcore_torch.exporting import to_onnx
from PIL import Image


def make(folder: Path) -> None:
    """``model.onnx``, ``names.txt``, ``cat.png`` and ``dog.png``."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    (folder / "model.onnx").write_bytes(to_onnx(model, (1, 3, 224, 224)))
    (folder / "names.txt").write_text("cat\ndog\nhorse\ncow\nsheep\n")
    for name in ("cat", "dog"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
