"""Layer normalisations however a graph writes them, and the head that one behind the pooling makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.constants import Constants
from camcore_onnx.heads import Found, find_head
from camcore_onnx.norms import layer_norm
from camcore_onnx.reading.load import infer_shapes, load
from onnx_graphs import Graph, images, newest_opset, run_plainly

from camcore.head import NormHead, global_mean

C, K = 6, 4
GAMMA, BETA = np.linspace(0.5, 2, C), np.linspace(-1, 1, C)


def nine_operators(g: Graph, x: str, *, last: int = -1, square: str = "2", variance_axis: int | None = None) -> str:
    """What the TorchScript exporter writes below opset 17."""
    moved = g.add("Sub", x, g.reduce("ReduceMean", x, [last], keep=1))
    squared = g.add("Mul", moved, moved) if square == "Mul" else g.add("Pow", moved, g.const(np.array(float(square))))
    variance = g.reduce("ReduceMean", squared, [last if variance_axis is None else variance_axis], keep=1)
    divided = g.add("Div", moved, g.add("Sqrt", g.add("Add", variance, g.const(np.array(0.01)))))
    return g.add("Add", g.add("Mul", divided, g.const(GAMMA)), g.const(BETA))


def one_operator(g: Graph, x: str, **attributes: Any) -> str:
    return g.add("LayerNormalization", x, g.const(GAMMA), g.const(BETA), epsilon=0.01, **attributes)


def network(g: Graph, form: str, **options: Any) -> Any:
    """Conv -> Relu (``features``) -> mean -> layer normalisation -> Gemm."""
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 7]), 3, C), to="features")
    pooled = g.reduce("ReduceMean", features, [2, 3])
    made = (one_operator if form == "one" else nine_operators)(g, pooled, **options)
    g.out(g.add("Gemm", made, g.const(g.normal(C, K)), g.const(g.normal(K)), to="scores"), ["N", K])
    return g.model()


def found_in(model: Any) -> Found:
    loaded = load(model)
    infer_shapes(loaded.model)
    return find_head(loaded.model.graph.outputs[0], Constants(loaded))


def assert_reproduces(model: Any) -> NormHead:
    """The head, which must give the scores of the untouched model."""
    found = found_in(model)
    assert isinstance(found.head, NormHead), found.obstacle
    assert found.features is not None
    assert found.features.name == "features"
    pixels = images(3, 3, 8, 7)
    features = run_plainly(_with_output(model, "features"), pixels, ["features"])[0]
    scores = run_plainly(model, pixels)[0]
    np.testing.assert_allclose(found.head(global_mean(features)), scores, rtol=1e-4, atol=1e-5)
    return found.head


def _with_output(model: Any, name: str) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.add().name = name
    return onnx.shape_inference.infer_shapes(copy)


@pytest.mark.parametrize("opset", [17, newest_opset()])
@pytest.mark.parametrize("axis", [-1, 1])
def test_one_operator(opset: int, axis: int) -> None:
    assert assert_reproduces(network(Graph(opset), "one", axis=axis)).epsilon == pytest.approx(0.01)


@pytest.mark.parametrize("opset", [7, 11, 16, 18])
@pytest.mark.parametrize("square", ["2", "Mul"])
@pytest.mark.parametrize("last", [-1, 1])
def test_nine_operators(opset: int, square: str, last: int) -> None:
    head = assert_reproduces(network(Graph(opset), "nine", square=square, last=last))
    assert head.epsilon == pytest.approx(0.01)


@pytest.mark.parametrize("form", ["constant", "reshaped", "filled"])
def test_weights_are_found_wherever_they_hide(form: str) -> None:
    for way in ("one", "nine"):
        assert_reproduces(network(Graph(17, form=form), way))


def test_without_a_shift() -> None:
    g = Graph(17)
    pooled = g.reduce("ReduceMean", g.add("Relu", g.image(["N", C, 8, 7]), to="features"), [2, 3])
    g.out(g.add("LayerNormalization", pooled, g.const(GAMMA)), ["N", C])
    head = found_in(g.model()).head
    assert isinstance(head, NormHead)
    np.testing.assert_array_equal(head.bias, np.zeros(C))
    np.testing.assert_allclose(head.weight, np.diag(GAMMA), rtol=1e-6)


@pytest.mark.parametrize(("square", "variance_axis"), [("3", None), ("2", 0)])
def test_a_division_that_is_no_layer_normalisation(square: str, variance_axis: int | None) -> None:
    model = network(Graph(16), "nine", square=square, variance_axis=variance_axis)
    assert "joins two tensors that depend on the image" in found_in(model).obstacle


def test_a_normalisation_over_a_map_is_refused() -> None:
    g = Graph(17)
    features = g.conv(g.image(["N", 3, 8, 7]), 3, C)
    rows = g.add("LayerNormalization", g.reduce("ReduceMean", features, [3]), g.const(np.ones(8)), name="norm")
    g.out(g.add("MatMul", rows, g.const(g.normal(8, K))), ["N", C, K])
    assert "'norm' does not normalise over all channels of pooled features" in found_in(g.model()).obstacle


def test_a_factor_that_depends_on_the_image_is_refused() -> None:
    g = Graph(17)
    features = g.conv(g.image([1, 3, 8, 7]), 3, C)
    factor = g.reduce("ReduceMean", features, [0, 2, 3])
    pooled = g.reduce("ReduceMean", features, [2, 3])
    g.out(g.add("LayerNormalization", pooled, factor, name="norm"), [1, C])
    assert "'norm' does not normalise over all channels of pooled features, with fixed weights" in (
        found_in(g.model()).obstacle
    )


def test_a_normalisation_in_front_of_the_pooling_is_part_of_the_network() -> None:
    g = Graph(17)
    last = g.add("Transpose", g.conv(g.image(["N", 3, 8, 7]), 3, C), perm=[0, 2, 3, 1])
    pooled = g.reduce("ReduceMean", g.add("Identity", one_operator(g, last), to="features"), [1, 2])
    g.out(g.add("Gemm", pooled, g.const(g.normal(C, K))), ["N", K])
    found = found_in(g.model())
    assert found.head is not None
    assert not isinstance(found.head, NormHead)
    assert found.channel_axis == 3


@pytest.mark.parametrize(
    ("shape", "axis", "covers", "last"),
    [
        (["N", 5, C], -1, False, True),
        (["N", 5, C], 2, False, True),
        (["N", 5, C], 1, False, False),
        (["N", 1, C], -1, True, True),
        (["N", C, 1], 1, True, False),
        (["N", 1, "T", C], -1, False, True),
    ],
)
def test_which_axes_are_normalised(shape: list[int | str], axis: int, covers: bool, last: bool) -> None:
    g = Graph(17)
    ones = g.const(np.ones([n for n in shape if isinstance(n, int)][-1 if axis in (-1, len(shape) - 1) else -2 :]))
    g.out(g.add("LayerNormalization", g.image(shape), ones, axis=axis), shape)
    loaded = load(g.model())
    norm = layer_norm(next(iter(loaded.model.graph)), Constants(loaded))
    assert norm is not None
    assert (norm.covers_all, norm.over_last) == (covers, last)
