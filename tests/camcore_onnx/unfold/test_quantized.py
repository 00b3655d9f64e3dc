"""Operators on integers, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.unfold import unfold
from fused_files import (
    Q,
    R,
    check_node,
    run,
    whole,
)
from onnx_graphs import Graph, images
from onnx_vjp import node_model

from camcore.errors import MethodNotPossible

MICROSOFT = "com.microsoft"


class TestSame:
    @pytest.mark.parametrize("opset", [12, 17, 20])
    @pytest.mark.parametrize(
        ("op", "about"),
        [
            ("QLinearSigmoid", {}),
            ("QLinearLeakyRelu", {"alpha": 0.2}),
            ("QLinearGlobalAveragePool", {}),
            ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("QLinearSoftmax", {"axis": -1}),
        ],
    )
    def test_of_one_tensor(self, op: str, about: dict[str, Any], opset: int) -> None:
        feed = {"x": whole(2, 3, 4, 4)}
        model = node_model(op, {**feed, **Q, **R}, wanted=["x"], opset=opset, domain=MICROSOFT, **about)
        if op == "QLinearSoftmax":
            model.graph.node[0].attribute.append(onnx.helper.make_attribute("opset", opset))
        check_node(model, feed, steps=1)

    @pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
    def test_of_two_tensors(self, op: str) -> None:
        feed = {"a": whole(2, 3, 4, 4), "b": whole(3, 1, 4, seed=1)}
        given = {"a": feed["a"], **Q, "b": feed["b"], "sb": np.float32(0.03), "zb": np.uint8(30), **R}
        check_node(node_model(op, given, wanted=["a", "b"], domain=MICROSOFT), feed, steps=1)

    def test_choice(self) -> None:
        feed = {"c": np.array([True, False, True]), "a": whole(2, 3), "b": whole(2, 3, seed=1)}
        given = {"c": feed["c"], "a": feed["a"], **Q, "b": feed["b"], "sb": np.float32(0.03), "zb": np.uint8(30), **R}
        check_node(node_model("QLinearWhere", given, wanted=list(feed), domain=MICROSOFT), feed, steps=1)

    @pytest.mark.parametrize("opset", [11, 17, 20])
    @pytest.mark.parametrize("by_column", [False, True])
    def test_matrix_product(self, by_column: bool, opset: int) -> None:
        steps = np.float32([0.01, 0.02, 0.03]) if by_column else np.float32(0.02)
        zeros = np.int8([0, 1, 2]) if by_column else np.int8(3)
        feed = {"x": whole(2, 4, 5)}
        weight = whole(5, 3, dtype=np.int8)
        given = {**feed, **Q, "w": weight, "ws": steps, "wz": zeros, **R}
        check_node(node_model("QLinearMatMul", given, wanted=["x"], opset=opset), feed, steps=1)

    @pytest.mark.parametrize("given_out", [False, True])
    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm(self, transposed: int, given_out: bool) -> None:
        feed = {"x": whole(2, 5)}
        weight = whole(3, 5, dtype=np.int8) if transposed else whole(5, 3, dtype=np.int8)
        given = {**feed, **Q, "w": weight, "ws": np.float32([0.01, 0.02, 0.03]), "wz": np.int8([0, 0, 0])}
        given |= {"c": whole(3, dtype=np.int8).astype(np.int32) * 10, **({} if given_out else R)}
        model = node_model("QGemm", given, wanted=["x"], domain=MICROSOFT, transB=transposed, alpha=0.5)
        check_node(model, feed, steps=1)

    @pytest.mark.parametrize("op", ["MaxPool", "Transpose", "Resize", "Pad", "Split"])
    def test_standard_operators(self, op: str) -> None:
        g = Graph(17)
        step, zero = (g.const(Q[n], form="initializer", dtype=Q[n].dtype) for n in ("scale", "zero"))
        x = g.add("QuantizeLinear", g.image([2, 4, 6, 6]), step, zero)
        about: dict[str, Any] = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
        pads = [g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.const(np.array(7), form="initializer", dtype=np.uint8)]
        sizes = ["", g.const(np.array([1, 1, 2, 2]), form="initializer", dtype=np.float32)]
        more = {"Pad": pads, "Resize": sizes, "Split": [g.ints(1, 3)]}.get(op, [])
        outputs = ["first", "second"] if op == "Split" else ["first"]
        g.add(op, x, *more, to=outputs, name="it", **about, **({"axis": 1} if op == "Split" else {}))
        for name in outputs:
            g.out(g.add("DequantizeLinear", name, step, zero), None)
        model = g.model()
        loaded = load(model)
        unfold(loaded.model, list(loaded.model.graph))
        feed = {"image": images(2, 4, 6, 6)}
        (node,) = [n for n in loaded.model.graph if n.op_type == op]
        assert node.inputs[0] is not None
        assert node.inputs[0].name == f"{x}/dequantized"
        for a, b in zip(run(serialize(loaded.model), feed), run(model.SerializeToString(), feed), strict=True):
            assert np.array_equal(a, b)


class TestRefused:
    def test_another_layout(self) -> None:
        given = {"x": whole(1, 4, 4, 3), **Q, **R}
        model = node_model("QLinearGlobalAveragePool", given, wanted=["x"], domain=MICROSOFT, channels_last=1)
        loaded = load(model)
        with pytest.raises(MethodNotPossible, match=r"images in another layout; save .* \(ORT_ENABLE_EXTENDED\)"):
            unfold(loaded.model, list(loaded.model.graph))
