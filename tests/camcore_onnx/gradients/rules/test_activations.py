"""The gradients of activation functions, against autograd and against differences of the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_vjp import agrees_with_differences, by_nodes, node_model, readers
from torch import Tensor
from torch_vjp import error_against_torch

LIMIT = 1e-5
OPSETS = (9, 11, 13, 17, 18, 20, 24)
ELU = (1.6732632423543772, 1.0507009873554805)


def _leaky(x: Tensor, alpha: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, alpha * x)


def _elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(torch.where(x > 0, 0.0, x)))


def _selu(x: Tensor, alpha: float = ELU[0], gamma: float = ELU[1]) -> Tensor:
    return gamma * _elu(x, alpha)


def _hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _swish(x: Tensor, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _thresholded(x: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, 0.0)


def _shrink(x: Tensor, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0))


Function = Callable[..., Tensor]
# operator -> the same in PyTorch, its opsets, and attributes that differ from the default
ACTIVATIONS: dict[str, tuple[Function, tuple[int, ...], list[dict[str, Any]]]] = {
    "Relu": (F.relu, OPSETS, []),
    "LeakyRelu": (_leaky, OPSETS, [{"alpha": 0.2}, {"alpha": 0.0}, {"alpha": 1.5}, {"alpha": -0.3}]),
    "Elu": (_elu, OPSETS, [{"alpha": 0.3}, {"alpha": 2.0}, {"alpha": -0.5}]),
    "Selu": (_selu, OPSETS, [{"alpha": 1.0, "gamma": 2.0}, {"alpha": 0.5, "gamma": -1.0}]),
    "Celu": (F.celu, (12, 13, 18, 24), [{"alpha": 0.3}, {"alpha": 2.0}]),
    "Sigmoid": (torch.sigmoid, OPSETS, []),
    "HardSigmoid": (_hard_sigmoid, OPSETS, [{"alpha": 1 / 6}, {"alpha": 0.4, "beta": 0.3}]),
    "HardSwish": (F.hardswish, (14, 18, 24), []),
    "Swish": (_swish, (24,), [{"alpha": 1.702}, {"alpha": -0.5}]),
    "Mish": (F.mish, (18, 24), []),
    "Gelu": (F.gelu, (20, 24), [{"approximate": "tanh"}]),
    "Tanh": (torch.tanh, OPSETS, []),
    "Softplus": (F.softplus, OPSETS, []),
    "Softsign": (F.softsign, OPSETS, []),
    "ThresholdedRelu": (_thresholded, (10, 13, 24), [{"alpha": 0.0}, {"alpha": -0.5}]),
    "Shrink": (_shrink, OPSETS, [{"lambd": 1.0, "bias": 0.5}, {"lambd": 0.2, "bias": -1.0}]),
}
FROM_THE_OUTPUT = sorted({"Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh"})
CASES = st.tuples(hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), st.integers(0, 2**20), st.booleans())


def spread(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)


def check(op: str, case: tuple[tuple[int, ...], int, bool], data: st.DataObject) -> None:
    function, opsets, others = ACTIVATIONS[op]
    shape, seed, free = case
    attributes = data.draw(st.sampled_from([{}, *others]))
    feed = {"x": spread(shape, seed)}
    model = node_model(op, feed, opset=data.draw(st.sampled_from(opsets)), free=free, **attributes)
    probes = [{"x": spread(tuple(n + 1 for n in shape))}] if free else []
    error = error_against_torch(model, feed, lambda x: function(x, **attributes), probes=probes, least=0.5)
    assert error <= LIMIT


class TestActivations:
    @pytest.mark.parametrize("op", ACTIVATIONS)
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(CASES, st.data())
    def test_agree_with_torch(self, op: str, case: tuple[tuple[int, ...], int, bool], data: st.DataObject) -> None:
        check(op, case, data)

    @pytest.mark.slow
    @pytest.mark.parametrize("op", ACTIVATIONS)
    @settings(max_examples=300, deadline=None)
    @given(CASES, st.data())
    def test_agree_with_torch_widely(
        self, op: str, case: tuple[tuple[int, ...], int, bool], data: st.DataObject
    ) -> None:
        check(op, case, data)

    @pytest.mark.parametrize("op", ACTIVATIONS)
    def test_agree_with_differences(self, op: str) -> None:
        _, opsets, others = ACTIVATIONS[op]
        feed = {"x": spread((2, 3, 4), 5)}
        for opset in {opsets[0], opsets[-1]}:
            for attributes in [{}, *others]:
                assert agrees_with_differences(node_model(op, feed, opset=opset, **attributes), feed) <= LIMIT

    @pytest.mark.parametrize("op", ACTIVATIONS)
    def test_far_out_as_torch(self, op: str) -> None:
        function, opsets, _ = ACTIVATIONS[op]
        feed = {"x": np.array([-50, -20, -9, 9, 20, 50, 1e-6, -1e-6, 88, -88, 1e4, -1e4], np.float32)}
        model = node_model(op, feed, opset=opsets[-1])
        _, found = by_nodes(model, feed, seed=np.ones(12, np.float32))
        x = torch.tensor(feed["x"], dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(function(x).sum(), x)
        np.testing.assert_allclose(found["x"], expected.numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("op", sorted(set(ACTIVATIONS) - {"Celu"}))  # which takes single precision only
    def test_half_precision_is_computed_in_single(self, op: str) -> None:
        function, opsets, _ = ACTIVATIONS[op]
        feed = {"x": spread((3, 5)).astype(np.float16)}
        _, found = by_nodes(node_model(op, feed, opset=opsets[-1]), feed, seed=np.ones((3, 5), np.float32))
        x = torch.tensor(feed["x"], dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(function(x).sum(), x)
        assert found["x"].dtype == np.float32
        np.testing.assert_allclose(found["x"], expected.numpy(), rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("op", FROM_THE_OUTPUT)
    def test_what_their_output_tells_is_read_there(self, op: str) -> None:
        feed = {"x": spread((2, 3))}
        assert readers(node_model(op, feed), feed) == [op]

    @pytest.mark.parametrize("op", ["Relu", "LeakyRelu", "Elu", "Selu", "HardSwish", "Gelu", "Softsign", "Shrink"])
    def test_at_zero_as_torch(self, op: str) -> None:
        function, opsets, _ = ACTIVATIONS[op]
        feed = {"x": np.array([0.0, -0.0, 1.0], np.float32)}
        assert error_against_torch(node_model(op, feed, opset=opsets[-1]), feed, function) <= LIMIT

    @pytest.mark.parametrize("op", ["Relu", "Clip"])
    def test_no_gradient_passes_a_dead_unit(self, op: str) -> None:
        feed = {"x": np.full((2, 3), -4, np.float32)}
        bounds = {"low": np.float32(0), "high": np.float32(6)} if op == "Clip" else {}
        _, found = by_nodes(node_model(op, feed | bounds, wanted=["x"]), feed)
        assert not found["x"].any()

    def test_corners_of_hard_swish_as_torch(self) -> None:
        feed = {"x": np.array([-3, 3, -3.0001, 3.0001, -2.9999, 2.9999], np.float32)}
        assert error_against_torch(node_model("HardSwish", feed), feed, self._hard_swish) <= LIMIT

    @staticmethod
    def _hard_swish(x: Tensor) -> Tensor:
        return x * (x / 6 + 0.5).clamp(0, 1) if not x.requires_grad else F.hardswish(x)


class TestPRelu:
    @pytest.mark.parametrize("opset", [9, 16, 24])
    @pytest.mark.parametrize("slope", [(), (1,), (3, 1, 1), (5,), (3, 4, 5), (2, 3, 4, 5)])
    def test_agrees_with_torch(self, slope: tuple[int, ...], opset: int) -> None:
        feed = {"x": spread((2, 3, 4, 5)), "slope": spread(slope, 2)}
        model = node_model("PRelu", feed, opset=opset)
        assert error_against_torch(model, feed, self._prelu) <= LIMIT
        assert agrees_with_differences(model, feed) <= LIMIT

    def test_a_stored_slope_and_free_lengths(self) -> None:
        feed, probe = {"x": spread((2, 3, 4, 5))}, {"x": spread((3, 3, 6, 7))}
        slope = spread((3, 1, 1), 2)
        model = node_model("PRelu", feed | {"slope": slope}, wanted=["x"], free=True)
        error = error_against_torch(model, feed, lambda x: self._prelu(x, torch.tensor(slope)), probes=[probe])
        assert error <= LIMIT

    def test_the_slope_holds_at_zero_as_in_torch(self) -> None:
        feed = {"x": np.zeros((1, 2, 3), np.float32), "slope": np.array([[0.3], [-2]], np.float32)}
        model = node_model("PRelu", feed)
        assert error_against_torch(model, feed, lambda x, s: F.prelu(x, s[:, 0])) <= LIMIT

    @staticmethod
    def _prelu(x: Tensor, slope: Tensor) -> Tensor:
        return torch.where(x > 0, x, slope * x)
