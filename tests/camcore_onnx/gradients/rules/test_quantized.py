"""Quantised tensors: the straight-through estimator against its definition, and against the float function."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.gradients.table import rule_of
from camcore_onnx.gradients.vjp import SEED, add_vjp
from camcore_onnx.reading.load import load
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_graphs import Graph, images, newest_opset
from onnx_vjp import by_nodes

from camcore.errors import MethodNotPossible

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
OPSETS = (10, 13, 19, 21, newest_opset())


def rounded(
    shape: tuple[int, ...], *, kind: str, scale: Any, zero: Any, opset: int, axis: int | None = None
) -> onnx.ModelProto:
    """image -> QuantizeLinear -> DequantizeLinear -> Neg."""
    g = Graph(opset)
    image = g.image(["N", *shape[1:]])
    step = g.const(scale, form="initializer", dtype=np.float32)
    offset = g.const(zero, form="initializer", dtype=np.dtype(kind))
    domain = "com.microsoft" if "16" in kind and opset < 21 else ""
    about: dict[str, Any] = {"domain": domain, **({} if axis is None else {"axis": axis})}
    whole = g.add("QuantizeLinear", image, step, offset, to="whole", **about)
    g.out(g.add("Neg", g.add("DequantizeLinear", whole, step, offset, **about)), ["N", *shape[1:]])
    return g.model(domains=["com.microsoft"] if domain else [])


def inside(x: NDArray[Any], scale: Any, zero: Any, kind: str) -> NDArray[Any]:
    """Where rounding gives neither end of the range."""
    low, high = RANGES[kind]
    whole = np.rint(x / np.float32(scale)) + np.asarray(zero, np.float32)
    return (whole > low) & (whole < high)


def gradients(model: onnx.ModelProto, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    outputs, found = by_nodes(model, {"image": x}, probes=[{"image": np.concatenate([x, x])}])
    return outputs[SEED], found["image"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(RANGES)), st.sampled_from(OPSETS), st.floats(1e-3, 0.1), st.data())
def test_passes_what_is_not_cut_off(kind: str, opset: int, scale: float, data: st.DataObject) -> None:
    low, high = RANGES[kind]
    zero = data.draw(st.sampled_from([low, high, (low + high + 1) // 2]))
    reach = (high - low) * scale
    x = (images(2, 3, 4) * reach / 2).astype(np.float32)
    model = rounded(x.shape, kind=kind, scale=scale, zero=zero, opset=opset)
    seed, found = gradients(model, x)
    assert np.array_equal(found, np.where(inside(x, scale, zero, kind), -seed, 0))


@pytest.mark.parametrize("opset", [13, 21])
def test_one_scale_for_each_channel(opset: int) -> None:
    scale, zero = np.array([0.01, 0.1, 1.0]), np.array([0, -128, 127])
    model = rounded((2, 3, 4), kind="int8", scale=scale, zero=zero, opset=opset, axis=1)
    x = images(2, 3, 4) * 4
    seed, found = gradients(model, x)
    mask = inside(x, scale[:, None], zero[:, None], "int8")
    assert 0 < mask.mean() < 1
    assert np.array_equal(found, np.where(mask, -seed, 0))


@pytest.mark.parametrize(("kind", "low"), [("uint8", 0), ("int8", -128)])
def test_a_relu_that_was_folded_into_the_range(kind: str, low: int) -> None:
    x = images(2, 3, 8)
    seed, found = gradients(rounded(x.shape, kind=kind, scale=0.02, zero=low, opset=17), x)
    steps = np.abs(x) > 0.02  # what rounds to zero lies on the corner
    assert np.array_equal(found[steps], np.where(x > 0, -seed, 0)[steps])


def test_scores_that_are_cut_off_have_a_gradient() -> None:
    g = Graph(17)
    g.out(g.quantized(g.image(["N", 5]), scale=1e-3), ["N", 5])
    seed, found = gradients(g.model(), images(2, 5))
    assert np.array_equal(found, seed)


def test_a_layer_that_is_given_out_is_no_score() -> None:
    g = Graph(17)
    features = g.quantized(g.image(["N", 5]), scale=1e-2, zero=-128)
    g.out(g.add("Neg", features), ["N", 5])
    g.out(features, ["N", 5])
    x = images(2, 5)
    seed, found = gradients(g.model(), x)
    assert np.array_equal(found, np.where(inside(x, 1e-2, -128, "int8"), -seed, 0))


def test_a_range_that_follows_the_values() -> None:
    g = Graph(17)
    whole = g.add("DynamicQuantizeLinear", g.image(["N", 5]), to=["whole", "step", "offset"])
    g.out(g.add("Neg", g.add("DequantizeLinear", whole, "step", "offset")), ["N", 5])
    seed, found = gradients(g.model(), images(2, 5))
    assert np.array_equal(found, -seed)


def test_half_precision() -> None:
    g = Graph(21, dtype="float16")
    step = g.const(np.array(0.02), form="initializer")
    zero = g.const(np.array(0), form="initializer", dtype=np.uint8)
    whole = g.add("QuantizeLinear", g.image(["N", 5]), step, zero)
    g.out(g.add("Neg", g.add("DequantizeLinear", whole, step, zero)), ["N", 5])
    x = images(2, 5).astype(np.float16)
    seed, found = gradients(g.model(), x)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.where(inside(x.astype(np.float32), np.float16(0.02), 0, "uint8"), -seed, 0))


def test_stored_weights_are_not_dequantised_twice() -> None:
    g = Graph(17)
    weight = g.const(g.normal(5, 5), form="dequantized")
    g.out(g.add("Mul", g.image(["N", 5]), g.add("Transpose", weight, perm=[1, 0]), name="mix"), [5, 5])
    loaded = load(g.model())
    graph = loaded.model.graph
    before = set(graph)
    add_vjp(loaded, graph.outputs[0], [graph.inputs[0]], [{"image": images(5, 5)}])
    made = {v for node in before for v in node.outputs}
    read = {v for node in graph if node not in before for v in node.inputs}
    assert not {v.name for v in made & read}


class TestRefused:
    def test_eight_bit_floats(self) -> None:
        g = Graph(23)
        step = g.const(np.array(0.1), form="initializer", dtype=np.float32)
        g.weights.append(onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0]))
        whole = g.add("QuantizeLinear", g.image(["N", 5]), step, "zero", to="whole", name="narrow")
        g.out(g.add("Neg", g.add("DequantizeLinear", whole, step, "zero", name="back")), ["N", 5])
        with pytest.raises(MethodNotPossible, match=r"'back' cannot .*: its integers are of type .*; expected INT8, U"):
            gradients(g.model(), images(2, 5))

    def test_integers_that_are_multiplied_as_such(self) -> None:
        g = Graph(17)
        whole = g.add("DynamicQuantizeLinear", g.image(["N", 5]), to=["whole", "step", "offset"])
        weight = g.const(np.eye(5), form="initializer", dtype=np.int8)
        product = g.add("MatMulInteger", whole, weight, "offset", name="product")
        g.nodes.append(onnx.helper.make_node("Cast", [product], ["floats"], to=1))
        back = g.add("DequantizeLinear", whole, "step", "offset")
        g.out(g.add("Add", g.add("Mul", "floats", "step"), back), ["N", 5])
        with pytest.raises(MethodNotPossible, match="MatMulInteger 'product' computes with its integers; quantise the"):
            gradients(g.model(), images(2, 5))

    def test_a_scale_alone(self) -> None:
        g = Graph(17)
        g.add("DynamicQuantizeLinear", g.image(["N", 5]), to=["whole", "step", "offset"])
        g.out(g.add("Neg", "step"), [])
        with pytest.raises(MethodNotPossible, match="the scores depend on its scale alone"):
            gradients(g.model(), images(2, 5))


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"])
def test_they_say_that_they_are_estimates(op: str) -> None:
    found = rule_of("", op)
    assert found is not None
    assert found.approximate.startswith("a straight-through estimate")
