"""Arithmetic written into a graph is arithmetic: each operation against NumPy, in old opsets and in new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx.gradients.facts import see
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Tensor, broadcast
from camcore_onnx.reading.load import Loaded, load
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx import helper
from torch_vjp import noise

OPSETS = (9, 10, 11, 13, 18, 20)
X, Y = noise(2, 3, 4), noise(3, 1, seed=1)


def _graph(opset: int, *, free: bool = False) -> Loaded:
    infos = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * a.ndim if free else a.shape)
        for n, a in (("x", X), ("y", Y))
    ]
    node = helper.make_node("Add", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="z")])
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def _written(function: Callable[[Tensor, Tensor], Tensor], opset: int, *, free: bool = False) -> NDArray[Any]:
    loaded = _graph(opset, free=free)
    values = list(loaded.model.graph.inputs)
    feeds = [{"x": X, "y": Y}, *([{"x": noise(5, 3, 7), "y": Y}] if free else [])]
    pen = Pen(loaded.model.graph, see(loaded, values, feeds))
    result = function(*(pen.read(v) for v in values))
    loaded.model.graph.outputs.append(result.value)
    found: NDArray[Any] = make_session(loaded.model, device="cpu").run([result.value.name], feeds[0])[0]
    assert all(n is None or n == length for n, length in zip(result.shape, found.shape, strict=True))
    return found


WRITTEN: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "sums and products": (lambda x, y: 2 * x - y / 3 + x * y - 1, lambda x, y: 2 * x - y / 3 + x * y - 1),
    "powers": (lambda x, y: x**2 + 1 / y, lambda x, y: x**2 + 1 / y),
    "comparisons": (
        lambda x, y: ((x > y) | (x < -1)).where(1.0, x * 0),
        lambda x, y: np.where((x > y) | (x < -1), np.float32(1), 0 * x),
    ),
    "other comparisons": (
        lambda x, y: ((x >= y) & (x <= 1)).where(x, 0.0),
        lambda x, y: np.where((x >= y) & (x <= 1), x, np.float32(0)),
    ),
    "equality": (lambda x, y: x.equals(x * 1.0).where(x, 0.0), lambda x, y: x),
    "reductions": (
        lambda x, y: x.sum(1) + x.mean(-1, keep=False).unsqueeze(2),
        lambda x, y: x.sum(1, keepdims=True) + x.mean(-1)[:, :, None],
    ),
    "axes": (lambda x, y: x.transpose(2, 0, 1).unsqueeze(0, 2).squeeze(0), lambda x, y: x.transpose(2, 0, 1)[:, None]),
    "slices": (lambda x, y: x.slice(1, 0, 3, 2).slice(2, 1, 9), lambda x, y: x[:, 0:3:2, 1:9]),
    "a slice backwards": (lambda x, y: x.slice(1, 2, -9, -1), lambda x, y: x[:, ::-1]),
    "gathering": (lambda x, y: x.gather(np.array([2, 0, 2]), 1), lambda x, y: x[:, [2, 0, 2]]),
    "padding": (lambda x, y: x.pad([0, 1, 0], [0, 0, 0]), lambda x, y: np.pad(x, [(0, 0), (1, 0), (0, 0)])),
    "cutting off": (lambda x, y: x.pad([0, -1, 0], [0, 0, 0]), lambda x, y: x[:, 1:]),
    "products of matrices": (lambda x, y: x.turned().matmul(y), lambda x, y: x.transpose(0, 2, 1) @ y),
    "shapes": (lambda x, y: x.reshape(-1, x.length(1)).like(x) * y, lambda x, y: x.reshape(-1, 3).reshape(x.shape) * y),
    "repeating": (lambda x, y: y.unsqueeze(0).expand(x), lambda x, y: np.broadcast_to(y, x.shape)),
    "counting": (lambda x, y: x / x.count(0, 2), lambda x, y: x / np.float32(x.shape[0] * x.shape[2])),
    "joining": (lambda x, y: x.pen.concat([x, x * 2], 1), lambda x, y: np.concatenate([x, x * 2], 1)),
    "zeros": (lambda x, y: x.pen.zeros(x) + y, lambda x, y: np.zeros_like(x) + y),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("free", [False, True])
def test_what_is_written_is_what_numpy_computes(name: str, opset: int, free: bool) -> None:
    ours, plain = WRITTEN[name]
    np.testing.assert_allclose(_written(ours, opset, free=free), plain(X, Y), rtol=1e-6, atol=1e-6)


def test_what_was_written_is_taken_again() -> None:
    loaded = _graph(13)
    values = list(loaded.model.graph.inputs)
    pen = Pen(loaded.model.graph, see(loaded, values, [{"x": X, "y": Y}]))
    x, y = (pen.read(v) for v in values)
    assert (x * y + 1).value is (x * y + 1).value
    assert (x * 2).value is not (x * 3).value
    assert x * 1 is x


def test_names_tell_the_place_and_are_never_taken_twice() -> None:
    loaded = _graph(13)
    loaded.model.graph.append(ir.Node("", "Neg", [loaded.model.graph.inputs[0]], name="grad/layer/Mul"))
    pen = Pen(loaded.model.graph, see(loaded, [], [{"x": X, "y": Y}]))
    pen.scope = "grad/layer"
    assert [pen.name("Mul"), pen.name("Mul"), pen.name("Conv")] == [
        "grad/layer/Mul_2",
        "grad/layer/Mul_3",
        "grad/layer/Conv",
    ]


def test_lengths_that_are_not_fixed() -> None:
    assert broadcast((None, 3, 1), (4,)) == (None, 3, 4)
    assert broadcast((None, 1), (1, None)) == (None, None)
    assert broadcast((None,), (5,)) == (5,)
    assert broadcast() == ()
