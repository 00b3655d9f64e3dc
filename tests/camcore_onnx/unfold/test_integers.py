"""The float tensor that a quantised one stands for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.unfold import dequantized
from fused_files import (
    Q,
    exported,
    quantised,
    run,
)
from onnx_graphs import Graph, images

from camcore.errors import MethodNotPossible


class TestDequantized:
    def test_readers_share_one_tensor(self) -> None:
        g = Graph(17)
        step, zero = (g.const(Q[n], form="initializer", dtype=Q[n].dtype) for n in ("scale", "zero"))
        x = g.add("QuantizeLinear", g.image(["N", 4]), step, zero, to="whole")
        floats = [g.add("DequantizeLinear", x, step, zero) for _ in range(2)]
        g.out(g.add("Mul", *floats), ["N", 4])
        loaded = load(g.model())
        layer = next(v for n in loaded.model.graph for v in n.outputs if v.name == "whole")
        found = dequantized(loaded.model, layer)
        assert [use.node.op_type for use in found.uses()] == ["Mul", "Mul"]
        assert Counter(n.op_type for n in loaded.model.graph)["DequantizeLinear"] == 1
        feed = {"image": images(2, 4)}
        assert np.array_equal(run(serialize(loaded.model), feed)[0], run(g.model().SerializeToString(), feed)[0])

    def test_a_new_one(self) -> None:
        data = quantised(exported("convolutions"), form="QOperator")
        loaded = load(data)
        node = next(n for n in loaded.model.graph if n.op_type == "MaxPool")
        found = dequantized(loaded.model, node.outputs[0])
        assert found.name == f"{node.outputs[0].name}/dequantized"
        assert dequantized(loaded.model, node.outputs[0]) is found

    def test_floats_stay(self) -> None:
        loaded = load(exported("convolutions"))
        layer = loaded.model.graph[0].outputs[0]
        assert dequantized(loaded.model, layer) is layer

    def test_integers_that_stand_for_nothing_known(self) -> None:
        g = Graph(17)
        g.out(g.add("Identity", g.image(["N", 4], type=onnx.TensorProto.UINT8)), ["N", 4], onnx.TensorProto.UINT8)
        loaded = load(g.model())
        with pytest.raises(MethodNotPossible, match="'identity_1' holds integers, and nothing tells what they stand"):
            dequantized(loaded.model, loaded.model.graph.outputs[0])
