from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.counting.census import Census, Port, take_census
from camcore_onnx.reading.load import infer_shapes, load
from onnx_graphs import Graph, classifier, finish


def census(model: Any) -> Census:
    return take_census(load(model))


def test_what_a_classifier_is_made_of() -> None:
    found = census(classifier())
    assert found.inputs == (Port("image", "float32", ("N", 3, "H", "W")),)
    assert found.outputs == (Port("scores", "float32", ("N", 5)),)
    assert dict(found.operators) == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    numbers = 6 * 27 + 6 + 6 * 5 + 5
    assert (found.weights.parameters, found.weights.bytes, found.weights.initializers) == (numbers, 4 * numbers, 4)
    assert found.weights.by_type == {"float32": 4 * numbers}
    assert found.precision == "float32"


@pytest.mark.parametrize(("form", "initializers", "constants"), [("input", 4, 0), ("constant", 0, 4)])
def test_where_weights_are(form: str, initializers: int, constants: int) -> None:
    """Before IR version 4 they are inputs too, and not inputs in any other way."""
    found = census(classifier(form=form))
    assert [p.name for p in found.inputs] == ["image"]
    assert (found.weights.initializers, found.weights.constants) == (initializers, constants)
    assert found.weights.parameters == 6 * 27 + 6 + 6 * 5 + 5


def test_inputs_that_may_be_left_out() -> None:
    model = classifier()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int32), "choice"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("choice", onnx.TensorProto.INT32, [1]))
    assert census(model).inputs[1] == Port("choice", "int32", (1,), optional=True)


def test_names_that_onnx_makes_up_are_none() -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="features")
    g.out(g.add("MaxPool", features, kernel_shape=[2, 2], to="halved"))
    loaded = load(finish(g, features, 6))
    infer_shapes(loaded.model)
    assert take_census(loaded).outputs[0].shape == ("N", 6, None, None)


def test_whole_numbers_for_shapes_are_no_parameters() -> None:
    g = Graph(17)
    features = g.add("Reshape", g.conv(g.image(["N", 3, 8, 8]), 3, 6), g.ints(0, 6, 8, 8))
    assert census(finish(g, features, 6)).weights.parameters == 6 * 27 + 6 + 6 * 5 + 5


def quantised(*operators: str) -> Any:
    """A classifier with some operators in front of its convolution; it need not run."""
    g = Graph(17, form="dequantized" if "DequantizeLinear" in operators else "initializer")
    value = g.image(["N", 3, 8, 8])
    if "QuantizeLinear" in operators:
        value = g.quantized(value)
    if "DynamicQuantizeLinear" in operators:
        g.add("DynamicQuantizeLinear", value, to=["q", "s", "z"])
    if "QLinearAdd" in operators:
        g.add("QLinearAdd", *["a"] * 0, domain="com.microsoft", to="unused")
    return finish(g, g.add("Relu", g.conv(value, 3, 6), to="features"), 6, domains=["com.microsoft"])


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (classifier(dtype="float16"), "float16"),
        (quantised("QuantizeLinear"), "float32, quantised tensors (QDQ)"),
        (quantised("DynamicQuantizeLinear"), "float32, quantised while it runs"),
        (quantised("QLinearAdd", "QuantizeLinear"), "float32, operators on integers (QOperator)"),
    ],
)
def test_precision(model: Any, precision: str) -> None:
    assert census(model).precision == precision


def test_mixed_precision_has_shares() -> None:
    found = census(quantised("DequantizeLinear"))
    whole = (162 + 30) + (6 + 5) + (6 + 6 + 1 + 1)  # weights, biases, and the zeros of their scales
    part = 4 * (6 + 6 + 1 + 1)
    assert found.weights.by_type == {"int8": whole, "float32": part}
    shares = f"{whole / (whole + part):.0%} int8, {part / (whole + part):.0%} float32"
    assert found.precision == f"mixed: {shares}, quantised weights"


def test_no_weights() -> None:
    g = Graph(17)
    g.out(g.add("Relu", g.image(["N", 3, 8, 8]), to="y"), ["N", 3, 8, 8])
    assert census(g.model()).precision == "no weights"


def test_external_weights_are_counted_and_not_read(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=100)
    loaded = load(tmp_path / "m.onnx")
    (tmp_path / "w.bin").unlink()
    weights = take_census(loaded).weights
    assert weights.files == {"w.bin": 4 * (6 * 27 + 6 * 5)}
    assert weights.external == sum(weights.files.values())
    assert weights.bytes == 4 * (6 * 27 + 6 + 6 * 5 + 5)


def test_other_domains_and_graphs_inside() -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    g.add("Gelu", features, domain="com.microsoft", to="unused")
    body = onnx.parser.parse_graph("body (int64 i, bool go, float[n] a) => (bool go, float[n] b) { b = Neg(a) }")
    looped = g.add("Loop", g.ints(2), "", features, to="looped", body=body)
    found = census(finish(g, looped, 6, domains=["com.microsoft"]))
    assert found.operators["com.microsoft.Gelu"] == 1
    assert (found.operators["Loop"], found.operators["Neg"]) == (1, 1)
