"""What must be the same for a run to go on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from camcore_tools.bulk.settings import settings_of
from torch import nn

import camcore
from camcore.rows import RowExplainer

GIVEN: dict[str, Any] = {"classes": None, "fusion": "max", "scaling": None, "fusion_size": "largest", "smooth": None}
GIVEN |= {"independent": None, "threads": 1, "batch_size": 32, "format": "npz", "shard_size": 1024, "option": []}


def settings(model: Any, **given: Any) -> dict[str, Any]:
    name = {"torch": None, "model": str(model)} if isinstance(model, Path) else {"torch": "mine:make", "model": None}
    explainer = camcore.explainer(model, preprocess={"size": (16, 16)}, labels=["a", "b", "c", "d"])
    facts = RowExplainer(explainer).facts((3, 16, 16))
    return settings_of(argparse.Namespace(**GIVEN | name | given), explainer, explainer.rule, facts)


def test_they_name_all_that_matters(model: Path) -> None:
    found = settings(model, option=[("samples", 3)])
    assert found == settings(model, option=[("samples", 3)])
    assert found["model"] == "tiny.onnx"
    assert (found["method"], found["maps"], found["input_size"]) == ("cam", [1, 14, 14], [16, 16])
    assert found["options"] == {"samples": 3}
    assert found["preprocess"]["size"] == [16, 16]
    assert {"onnxruntime", "pillow", "numpy", "camcore"} <= found.keys()
    assert found != settings(model, batch_size=16)


def test_weights_outside_the_file_count(tiny: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = settings(path)["model_sha256"]
    assert settings(path)["model_sha256"] == before
    weights = np.fromfile(tmp_path / "weights.bin", np.float32)
    (weights * 2).tofile(tmp_path / "weights.bin")
    assert settings(path)["model_sha256"] != before


def test_weights_of_a_module_count() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    before = settings(module)
    assert settings(module) == before
    nn.init.zeros_(module[0].bias)
    assert settings(module)["model_sha256"] != before["model_sha256"]
    assert before["model"] == "mine:make"
