"""Putting numbers back where they were taken: nothing is lost where many meet."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_vjp import SEED, by_nodes, node_model
from torch_vjp import error, noise


class TestScatterAdd:
    @pytest.mark.parametrize("fixed", [True, False])
    @pytest.mark.parametrize(("opset", "count"), [(13, 5_000), (18, 300_000)])
    def test_many_numbers_meet_at_few_places(self, opset, count, fixed):
        """On several threads, ONNX Runtime's ScatterND loses some of these."""
        index = np.random.default_rng(0).integers(0, 4, count)
        inputs = {"x": noise(4), "i": index}
        model = node_model("Gather", inputs, wanted=["x"] if fixed else ["x", "i"], opset=opset)
        feed = {"x": inputs["x"]} if fixed else inputs
        _, gradients = by_nodes(model, feed, seed=np.ones(count, np.float32), wanted=["x"])
        assert gradients["x"].tolist() == np.bincount(index).tolist()

    def test_few_repeats_are_gathered(self):
        inputs = {"x": noise(4, 3), "i": np.array([2, 0, 2])}
        outputs, gradients = by_nodes(node_model("Gather", inputs, opset=9), {"x": inputs["x"]})
        seed, zero = outputs[SEED], np.zeros(3)
        assert error(gradients["x"], np.stack([seed[1], zero, seed[0] + seed[2], zero])) < 1e-6
