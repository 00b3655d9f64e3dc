"""What is told of layers without a gradient: the operator, its node, other layers, and methods that work."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients.table import rule_of
from onnx import TensorProto, helper
from onnx_graphs import Graph, images

import camcore
from camcore.errors import MethodNotPossible

X = images(1, 3, 12, 12, seed=3)


def network(middle: Callable[[Graph, str], str], opset: int = 17) -> Any:
    """image -> Conv -> Relu (``first``) -> what is tried -> Conv -> Relu (``last``) -> maximum -> Gemm (``scores``)."""
    g = Graph(opset)
    first = g.add("Relu", g.conv(g.image(["N", 3, 12, 12]), 3, 4), to="first")
    last = g.add("Relu", g.conv(middle(g, first), 4, 6, kernel=1), to="last")
    flat = g.add("Flatten", g.add("GlobalMaxPool", last, name="pool"))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 6)), to="scores", transB=1), ["N", 5])
    return g.model()


def det(g: Graph, x: str) -> str:
    return g.add("Add", x, g.add("Unsqueeze", g.add("Det", x, name="volume"), g.ints(2, 3)), to="sum")


def sample(g: Graph, x: str) -> str:
    rows = np.random.default_rng(0).uniform(-1, 1, (1, 12, 12, 2))
    return g.add("GridSample", x, g.const(rows), name="warp", to="warped")


def choice(g: Graph, x: str) -> str:
    """Both branches read the layer, and no input of the node does."""
    branches = {}
    for name, op in (("then_branch", "Abs"), ("else_branch", "Neg")):
        info = helper.make_tensor_value_info(op, TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([helper.make_node(op, [x], [op])], name, [], [info])
    mean = g.reduce("ReduceMean", "image", [0, 1, 2, 3])
    return g.add("Add", x, g.add("If", g.add("Greater", mean, g.const(0.0)), name="choice", **branches), to="sum")


def whole(g: Graph, x: str) -> str:
    for to, kind in (("whole", TensorProto.INT64), ("floats", TensorProto.FLOAT)):
        g.nodes.append(helper.make_node("Cast", [x], [to], name=f"to_{to}", to=kind))
        x = to
    return x


def aside(g: Graph, x: str) -> str:
    g.add("Abs", x, to="aside")
    return x


def table(g: Graph, x: str) -> str:
    """What is looked up holds a number of the layer: OneHot gives it on."""
    mean = g.add("Reshape", g.reduce("ReduceMean", x, [0, 1, 2, 3]), g.ints(1))
    values = g.add("Concat", g.const([0.0], dtype=np.float32), mean, axis=0)
    return g.add("Add", x, g.add("OneHot", g.ints(*range(12)), g.ints(12), values, axis=-1, name="table"), to="sum")


def distinct(g: Graph, x: str) -> str:
    highest = g.reduce("ReduceMax", g.add("Unique", x, name="distinct"), [0])
    return g.add("Add", x, g.add("Reshape", highest, g.ints(1)), to="sum")


def steps(g: Graph, x: str) -> str:
    mean = g.add("Squeeze", g.reduce("ReduceMean", x, [0, 1, 2, 3]))
    ends = g.add("Add", mean, g.const(5.5, dtype=np.float32))
    along = g.add("Range", mean, ends, g.const(0.5, dtype=np.float32), name="steps")
    return g.add("Add", x, g.add("Reshape", g.add("Slice", along, g.ints(0), g.ints(1)), g.ints(1)), to="sum")


def refusal(model: Any, layer: str, method: str = "gradcam++") -> str:
    with pytest.raises(MethodNotPossible) as caught:
        camcore.explainer(model, method=method, layer=layer)(X)
    return str(caught.value)


@pytest.mark.parametrize(
    ("middle", "op", "node", "others"),
    [
        (det, "Det", "volume", "last"),
        (sample, "GridSample", "warp", None),
        (choice, "If", "choice", "last"),
        (table, "OneHot", "table", "last"),
        (distinct, "Unique", "distinct", "last"),
        (steps, "Range", "steps", "last"),
    ],
)
def test_an_operator_without_a_rule(middle: Any, op: str, node: str, others: str | None) -> None:
    assert rule_of("", op) is None
    text = refusal(network(middle), "first")
    assert text.startswith(f"gradcam++ is not possible at 'first': no derivative is known of {op} ({node!r}), which")
    assert "camcore methods --ops lists those that have one" in text
    assert "Nor is there a closed form" in text
    if others:
        assert f" Layers with a gradient: {others}. " in text
    assert re.search(r"Methods that work here: ablationcam, .*eigencam.*scorecam", text)


@pytest.mark.parametrize("middle", [det, choice])
def test_layers_and_methods_that_are_named_do_work(middle: Any) -> None:
    model = network(middle)
    text = refusal(model, "first")
    layers = re.search(r"Layers with a gradient: (.*?)\. ", text)[1].split(", ")  # type: ignore[index]
    for layer in layers:
        assert np.isfinite(camcore.explainer(model, method="gradcam++", layer=layer)(X).maps).all()
    for method in ("eigencam", "reciprocam"):
        assert method in text
        assert np.isfinite(camcore.explainer(model, method=method, layer="first")(X).maps).all()


@pytest.mark.parametrize(
    ("middle", "layer", "why"),
    [
        (aside, "aside", "the scores 'scores' do not depend on the layer 'aside'; choose another."),
        (whole, "first", "the scores 'scores' do not change smoothly with the layer 'first': integers, comparisons"),
        (whole, "whole", "the layer 'whole' holds int64, not floats; choose another layer."),
        (aside, "scores", "the layer 'scores' is the scores themselves; choose a layer in front of them."),
    ],
)
def test_a_layer_from_which_no_gradient_can_come(middle: Any, layer: str, why: str) -> None:
    text = refusal(network(middle), layer)
    assert text.startswith(f"gradcam++ is not possible at {layer!r}: {why}")
    assert "Layers with a gradient: " in text
    assert "Methods that work here: " in text


def training(g: Graph, x: str) -> str:
    g.add("Dropout", x, g.const(0.5), g.const(np.array(True), dtype=bool), name="drop", to="dropped")
    return "dropped"


def test_what_a_rule_refuses_is_told_as_fully() -> None:
    """It is seen only when the gradient is built; from then on the planner knows."""
    ex = camcore.explainer(network(training), method="gradcam", layer="first")
    for _ in range(2):
        with pytest.raises(MethodNotPossible) as caught:
            ex(X)
        text = str(caught.value)
        assert text.startswith("gradcam is not possible at 'first': Dropout 'drop' cannot be differentiated: it is in")
        assert " Layers with a gradient: last. " in text
    assert "eigencam" in text


def test_of_several_layers_the_refused_one_is_named() -> None:
    ex = camcore.explainer(network(training), method="layercam", layer=["last", "first"])
    with pytest.raises(MethodNotPossible, match="layercam is not possible at 'first': Dropout 'drop'"):
        ex(X)


def test_methods_without_gradients_are_planned_as_ever() -> None:
    model = network(det)
    backend = OnnxBackend(model)
    assert backend.tap("first").no_gradient
    assert camcore.explainer(model, method="ablationcam", layer="first").plan.way == "tail runs"


class TestFused:
    def model(self, op: str = "FusedConv") -> Any:
        def middle(g: Graph, x: str) -> str:
            kernel = g.const(g.normal(4, 4, 1, 1))
            return g.add(op, x, kernel, domain="com.microsoft", name="fused", to="fused", activation="Relu")

        proto = network(middle)
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return proto

    def test_what_can_be_written_out_is_no_obstacle(self) -> None:
        model = self.model()
        backend = OnnxBackend(model)
        assert backend.differentiator.obstacle(backend.value("first")) == ""
        assert camcore.explainer(model, method="gradcam", layer="first").plan.way == "gradient"

    def test_what_cannot_is_one(self) -> None:
        backend = OnnxBackend(self.model("NhwcFusedConv"))
        text = backend.differentiator.obstacle(backend.value("first"))
        assert text.startswith("NhwcFusedConv 'fused' cannot be differentiated: it keeps images in another layout")


class TestApproximate:
    def test_quantised(self) -> None:
        backend = OnnxBackend(network(lambda g, x: g.quantized(x)))
        (told, other) = backend.differentiator.approximate(backend.value("first"))
        assert told.startswith("QuantizeLinear: a straight-through estimate")
        assert other.startswith("DequantizeLinear: ")
        assert backend.differentiator.approximate(backend.value("last")) == ()

    def test_no_gradient_is_not_approximate(self) -> None:
        backend = OnnxBackend(network(det))
        assert backend.differentiator.approximate(backend.value("first")) == ()

    def test_a_quantised_layer_means_the_floats_it_stands_for(self) -> None:
        backend = OnnxBackend(network(lambda g, x: g.quantized(x)))
        quantised = next(v for n in backend.graph if n.op_type == "QuantizeLinear" for v in n.outputs)
        assert backend.differentiator.obstacle(quantised) == ""


def test_the_model_is_not_changed() -> None:
    proto = TestFused().model()
    backend = OnnxBackend(proto)
    before = [node.op_type for node in backend.graph]
    backend.differentiator.obstacle(backend.value("first"))
    assert [node.op_type for node in backend.graph] == before
