"""The matrix of an operator along one axis is what it makes of an identity."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_vjp import SEED, by_nodes, node_model
from torch_vjp import error, noise


class TestMatrix:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("free", [False, True])
    def test_is_transposed_along_any_axis(self, axis, free):
        x = noise(3, 4, 5)
        ends = [int(a == axis) for a in range(3)]
        inputs = {"x": x, "pads": np.array([*ends, *ends])}
        model = node_model("Pad", inputs, wanted=["x"], opset=13, mode="reflect", free=True)
        outputs, gradients = by_nodes(model, {"x": x}, probes=[{"x": noise(*(n + free for n in x.shape))}])
        seed = np.moveaxis(outputs[SEED], axis, 0)
        expected = seed[1:-1].copy()
        expected[1] += seed[0]
        expected[-2] += seed[-1]
        assert error(gradients["x"], np.moveaxis(expected, 0, axis)) < 1e-6

    def test_is_stored_where_lengths_are_fixed(self):
        from camcore_onnx.gradients.vjp import add_vjp
        from camcore_onnx.reading.load import load

        inputs = {"x": noise(3, 4), "pads": np.array([0, 1, 0, 1])}
        loaded = load(node_model("Pad", inputs, wanted=["x"], opset=13, mode="edge"))
        graph = loaded.model.graph
        add_vjp(loaded, graph.outputs[0], graph.inputs[:1], [{"x": inputs["x"]}])
        assert [node.op_type for node in graph][1:] == ["Transpose", "MatMul"]
