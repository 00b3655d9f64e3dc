"""A tiny ONNX classifier and a picture, for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


def tiny(
    inputs: int = 1, shape: tuple[object, ...] = ("N", 3, 16, 16), kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Conv -> Relu -> GlobalAveragePool -> Flatten -> Gemm, four classes."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((5, 3, 3, 3)).astype(np.float32),
        "v": random.standard_normal((4, 5)).astype(np.float32),
        "b": random.standard_normal(4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "v", "b"], ["scores"], "head", transB=1),
    ]
    names = ["x", *(f"extra{i}" for i in range(1, inputs))]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, kind, list(shape)) for n in names],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny(), path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(name="tiny")
def tiny_builder() -> Callable[..., onnx.ModelProto]:
    """The builder of the model, for variants of it."""
    return tiny
