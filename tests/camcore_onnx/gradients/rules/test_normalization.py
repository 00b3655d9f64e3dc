"""The gradients of normalisation, against autograd and against differences of the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_vjp import SEED, agrees_with_differences, by_nodes, node_model
from torch.nn import functional as F
from torch_vjp import DRAWS, MANY_DRAWS, error, noise, torch_error

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
BATCH_OPSETS = (9, 13, 14, 15, 20)


def tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.tensor(array.astype(np.float64))


def larger(x: NDArray[Any], *axes: int) -> NDArray[Any]:
    """Other numbers, two longer along some axes."""
    return noise(*(n + 2 * (a in axes) for a, n in enumerate(x.shape)), seed=1)


@st.composite
def maps(draw: st.DrawFn) -> dict[str, Any]:
    """Numbers of maps of four channels, and whether batch and size are free."""
    shape = (draw(st.integers(1, 3)), 4, *draw(st.lists(st.integers(4, 7), min_size=1, max_size=3)))
    x = (noise(*shape, seed=draw(st.integers(100, 199))) + draw(st.sampled_from([0, 1]))) * draw(
        st.sampled_from([0.1, 1, 10])
    )
    return {"x": x.astype(np.float32), "free": draw(st.booleans())}


def prove(function: Any, op: str, drawn: dict[str, Any], more: dict[str, Any], **options: Any) -> None:
    x = drawn["x"]
    probe = {"x": larger(x, 0, *range(2, x.ndim)), **more} if drawn["free"] else None
    assert torch_error(function, op, {"x": x, **more}, probe=probe, **options) <= LIMIT


def prove_batch_norm(drawn: dict[str, Any], *, opset: int, dtype: Any = np.float32) -> None:
    scale, bias, mean = (noise(4, seed=s).astype(dtype) for s in (1, 2, 3))
    variance = (noise(4, seed=4) ** 2 + 0.1).astype(dtype)
    numbers = [tensor(n) for n in (mean, variance, scale, bias)]
    more = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    prove(lambda t: F.batch_norm(t, *numbers), "BatchNormalization", drawn, more, opset=opset)


def prove_instance_norm(drawn: dict[str, Any], *, opset: int) -> None:
    scale, bias = noise(4, seed=1), noise(4, seed=2)
    function = lambda t: F.instance_norm(t, weight=tensor(scale), bias=tensor(bias))  # noqa: E731
    prove(function, "InstanceNormalization", drawn, {"scale": scale, "bias": bias}, opset=opset)


def prove_group_norm(drawn: dict[str, Any], *, groups: int, opset: int) -> None:
    length = groups if opset < 21 else 4
    scale, bias = noise(length, seed=1), noise(length, seed=2)
    each = [tensor(np.repeat(n, 4 // length)) for n in (scale, bias)]
    more = {"scale": scale, "bias": bias}
    prove(lambda t: F.group_norm(t, groups, *each), "GroupNormalization", drawn, more, opset=opset, num_groups=groups)


def prove_layer_norm(drawn: dict[str, Any], *, axis: int, opset: int) -> None:
    x, axis = drawn["x"], axis % drawn["x"].ndim
    scale, bias = noise(*x.shape[axis:], seed=1), noise(*x.shape[axis:], seed=2)
    function = lambda t: F.layer_norm(t, x.shape[axis:], tensor(scale), tensor(bias))  # noqa: E731
    probe = {"x": larger(x, *range(axis)), "scale": scale, "bias": bias} if drawn["free"] and axis else None
    inputs = {"x": x, "scale": scale, "bias": bias}
    assert torch_error(function, "LayerNormalization", inputs, opset=opset, axis=axis, probe=probe) <= LIMIT


def prove_rms_norm(drawn: dict[str, Any], *, axis: int) -> None:
    x, axis = drawn["x"], axis % drawn["x"].ndim
    scale = noise(*x.shape[axis:], seed=1)
    function = lambda t: F.rms_norm(t, x.shape[axis:], tensor(scale), 1e-5)  # noqa: E731
    assert torch_error(function, "RMSNormalization", {"x": x, "scale": scale}, opset=23, axis=axis) <= LIMIT


def prove_response_norm(drawn: dict[str, Any], *, size: int, beta: float, opset: int) -> None:
    numbers = {"size": size, "alpha": 0.5, "beta": beta}
    function = lambda t: F.local_response_norm(t, **numbers, k=2.0)  # noqa: E731
    prove(function, "LRN", drawn, {}, opset=opset, **numbers, bias=2.0)


def prove_lp_norm(drawn: dict[str, Any], *, p: int, axis: int, opset: int) -> None:
    axis %= drawn["x"].ndim
    prove(lambda t: F.normalize(t, p, axis), "LpNormalization", drawn, {}, opset=opset, p=p, axis=axis)


def prove_softmax(drawn: dict[str, Any], *, op: str, axis: int | None, opset: int) -> None:
    function = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax}[op]
    drawn = {**drawn, "x": drawn["x"].clip(-2, 2)}  # where it saturates, the gradient is smaller than what rounds off
    given = {} if axis is None else {"axis": axis % drawn["x"].ndim}
    if opset >= 13:
        prove(lambda t: function(t, given.get("axis", -1)), op, drawn, {}, opset=opset, **given)
    else:
        start = given.get("axis", 1)
        flat = lambda t: function(t.reshape(*t.shape[:start], -1), -1).reshape(t.shape)  # noqa: E731
        prove(flat, op, drawn, {}, opset=opset, **given)


class TestBatchNorm:
    @DRAWS
    @given(drawn=maps(), opset=st.sampled_from(BATCH_OPSETS))
    def test_any_maps(self, drawn, opset):
        prove_batch_norm(drawn, opset=opset)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=maps(), opset=st.sampled_from(BATCH_OPSETS))
    def test_many_maps(self, drawn, opset):
        prove_batch_norm(drawn, opset=opset)

    def test_differences(self):
        x, ones = noise(2, 3, 4, 4), np.ones(3, np.float32)
        inputs = {"x": x, "scale": noise(3, seed=1), "bias": ones, "mean": ones, "variance": ones * 2}
        assert agrees_with_differences(node_model("BatchNormalization", inputs, wanted=["x"]), {"x": x}) <= LIMIT

    def test_half_precision(self):
        x = np.full((1, 4, 2, 2), 0.5, np.float16)
        numbers = {"scale": [1, 2, 3, 4], "bias": [0] * 4, "mean": [0] * 4, "variance": [1, 2, 3, 4]}
        inputs = {"x": x, **{name: np.array(n, np.float16) for name, n in numbers.items()}}
        model = node_model("BatchNormalization", inputs, wanted=["x"], opset=15)
        seed = np.ones(x.shape, np.float32)
        _, found = by_nodes(model, {"x": x}, seed=seed)
        expected = (np.array([1, 2, 3, 4]) / np.sqrt(np.array([1, 2, 3, 4]) + 1e-5)).reshape(1, 4, 1, 1) * seed
        assert error(found["x"], expected) <= LIMIT

    def test_training_is_refused(self):
        x, ones = noise(2, 3, 4, 4), np.ones(3, np.float32)
        inputs = {"x": x, "scale": ones, "bias": ones, "mean": ones, "variance": ones}
        model = node_model("BatchNormalization", inputs, wanted=["x"], outputs=3, opset=15, training_mode=1)
        with pytest.raises(MethodNotPossible, match=r"it is in training mode, .*; export the model for inference"):
            by_nodes(model, {"x": x})

    def test_statistics_from_the_image(self):
        x, ones = noise(2, 3, 4, 4), np.ones(3, np.float32)
        variance = {"variance": np.array([1, 2, 3], np.float32)}
        inputs = {"x": x, "scale": ones * 2, "bias": ones, "mean": ones, **variance}
        model = node_model("BatchNormalization", inputs, wanted=["x", "variance"])
        outputs, found = by_nodes(model, {"x": x, **variance}, wanted=["x"])
        factor = 2 / np.sqrt(variance["variance"] + 1e-5)
        assert error(found["x"], outputs[SEED] * factor.reshape(1, 3, 1, 1)) <= LIMIT


class TestLayerNorm:
    @DRAWS
    @given(drawn=maps(), axis=st.integers(-3, 2), opset=st.sampled_from([17, 18, 20, 24]))
    def test_any_maps(self, drawn, axis, opset):
        prove_layer_norm(drawn, axis=axis, opset=opset)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=maps(), axis=st.integers(-3, 2), opset=st.sampled_from([17, 18, 20, 24]))
    def test_many_maps(self, drawn, axis, opset):
        prove_layer_norm(drawn, axis=axis, opset=opset)

    @pytest.mark.parametrize("axis", [1, -1])
    def test_differences(self, axis):
        x, scale = noise(2, 4, 5), noise(*((4, 5) if axis == 1 else (5,)), seed=1)
        model = node_model("LayerNormalization", {"x": x, "scale": scale}, wanted=["x"], opset=17, axis=axis)
        assert agrees_with_differences(model, {"x": x}) <= LIMIT

    @pytest.mark.parametrize("output", [1, 2])
    def test_its_statistics_are_differentiated_too(self, output):
        x, scale = noise(2, 4, 5), noise(5, seed=1)
        model = node_model("LayerNormalization", {"x": x, "scale": scale}, wanted=["x"], opset=18, outputs=3)
        statistics = [
            lambda t: t.mean(-1, keepdim=True),
            lambda t: (t.var(-1, correction=0, keepdim=True) + 1e-5) ** -0.5,
        ]
        outputs, found = by_nodes(model, {"x": x}, output=output)
        t = torch.tensor(x.astype(np.float64), requires_grad=True)
        (expected,) = torch.autograd.grad(statistics[output - 1](t), t, tensor(outputs[SEED]))
        assert error(found["x"], expected.numpy()) <= LIMIT

    def test_a_constant_row_has_no_large_numbers(self):
        x, ones = np.full((1, 2, 8), 3, np.float32), np.ones(8, np.float32)
        outputs, found = by_nodes(node_model("LayerNormalization", {"x": x, "s": ones}, wanted=["x"]), {"x": x})
        seed = outputs[SEED].astype(np.float64)
        assert error(found["x"], (seed - seed.mean(-1, keepdims=True)) / np.sqrt(1e-5)) <= LIMIT

    def test_half_precision(self):
        x = noise(2, 3, 8, dtype=np.float16)
        scale = noise(8, seed=1, dtype=np.float16)
        model = node_model("LayerNormalization", {"x": x, "scale": scale}, wanted=["x"], opset=17)
        outputs, found = by_nodes(model, {"x": x})
        t = torch.tensor(x.astype(np.float64), requires_grad=True)
        expected = torch.autograd.grad(F.layer_norm(t, [8], tensor(scale)), t, tensor(outputs[SEED]))[0]
        assert error(found["x"], expected.numpy()) <= LIMIT

    def test_a_scale_from_the_layer_is_refused(self):
        x, scale = noise(2, 8), noise(8, seed=1)
        model = node_model("LayerNormalization", {"x": x, "scale": scale})
        with pytest.raises(MethodNotPossible, match="its input 1, 'scale', depends on the layer too"):
            by_nodes(model, {"x": x, "scale": scale})


class TestInstanceAndGroupNorm:
    @DRAWS
    @given(drawn=maps(), opset=st.sampled_from([9, 13, 18, 22]))
    def test_instances(self, drawn, opset):
        prove_instance_norm(drawn, opset=opset)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=maps(), opset=st.sampled_from([9, 13, 18, 22]))
    def test_many_instances(self, drawn, opset):
        prove_instance_norm(drawn, opset=opset)

    @DRAWS
    @given(drawn=maps(), groups=st.sampled_from([1, 2, 4]), opset=st.sampled_from([18, 20, 21, 24]))
    def test_groups(self, drawn, groups, opset):
        prove_group_norm(drawn, groups=groups, opset=opset)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=maps(), groups=st.sampled_from([1, 2, 4]), opset=st.sampled_from([18, 20, 21, 24]))
    def test_many_groups(self, drawn, groups, opset):
        prove_group_norm(drawn, groups=groups, opset=opset)

    def test_differences(self):
        x, scale = noise(2, 4, 3, 5), noise(4, seed=1)
        inputs = {"x": x, "scale": scale, "bias": scale}
        assert agrees_with_differences(node_model("InstanceNormalization", inputs, wanted=["x"]), {"x": x}) <= LIMIT
        given = {"num_groups": 2, "opset": 21}
        model = node_model("GroupNormalization", inputs, wanted=["x"], **given)
        assert agrees_with_differences(model, {"x": x}) <= 1e-3  # the reference computes in single precision

    def test_a_constant_channel(self):
        x, ones = noise(1, 2, 4, 4), np.ones(2, np.float32)
        x[:, 0] = 5
        inputs = {"x": x, "scale": ones, "bias": ones}
        outputs, found = by_nodes(node_model("InstanceNormalization", inputs, wanted=["x"]), {"x": x})
        seed = outputs[SEED].astype(np.float64)[:, 0]
        assert error(found["x"][:, 0], (seed - seed.mean()) / np.sqrt(1e-5)) <= LIMIT


class TestRmsNorm:
    @DRAWS
    @given(drawn=maps(), axis=st.integers(-3, 2))
    def test_any_maps(self, drawn, axis):
        prove_rms_norm(drawn, axis=axis)

    def test_differences(self):
        x, scale = noise(2, 4, 5), noise(5, seed=1)
        model = node_model("RMSNormalization", {"x": x, "scale": scale}, wanted=["x"], opset=23)
        assert agrees_with_differences(model, {"x": x}) <= LIMIT


class TestMeanVarianceNorm:
    @pytest.mark.parametrize("opset", [9, 13, 20])
    @pytest.mark.parametrize("axes", [None, [2, 3], [0, 1, 2, 3]])
    def test_against_torch(self, opset, axes):
        over, given = axes or [0, 2, 3], {} if axes is None else {"axes": axes}
        function = lambda t: (t - t.mean(over, True)) / (t.std(over, correction=0, keepdim=True) + 1e-9)  # noqa: E731
        x, probe = noise(2, 3, 4, 5), {"x": noise(3, 3, 6, 4)}
        options = {"opset": opset, "probe": probe, **given}
        assert torch_error(function, "MeanVarianceNormalization", {"x": x}, **options) <= LIMIT


class TestResponseNorm:
    @DRAWS
    @given(
        drawn=maps(),
        size=st.sampled_from([1, 3, 5]),  # ONNX Runtime takes no others
        beta=st.sampled_from([0.5, 0.75, 1.0]),
        opset=st.sampled_from([9, 13, 20]),
    )
    def test_any_maps(self, drawn, size, beta, opset):
        x = drawn["x"]
        drawn = {**drawn, "x": x.reshape(*x.shape[:3], -1)}  # ONNX Runtime takes no other ranks
        prove_response_norm(drawn, size=size, beta=beta, opset=opset)

    @pytest.mark.parametrize("opset", [9, 13])
    def test_differences(self, opset):
        x = noise(6, 6, 3, 4)  # the reference confuses batch and channels
        model = node_model("LRN", {"x": x}, opset=opset, size=3, alpha=0.9, beta=0.6)
        assert agrees_with_differences(model, {"x": x}) <= LIMIT


class TestLpNorm:
    @DRAWS
    @given(drawn=maps(), p=st.sampled_from([1, 2]), axis=st.integers(-3, 2), opset=st.sampled_from([9, 13, 18, 22]))
    def test_any_maps(self, drawn, p, axis, opset):
        prove_lp_norm(drawn, p=p, axis=axis, opset=opset)

    @pytest.mark.parametrize("p", [1, 2])
    def test_differences(self, p):
        x = np.abs(noise(2, 5)) + 0.1  # the reference forgets the sign where p is 1
        assert agrees_with_differences(node_model("LpNormalization", {"x": x}, p=p), {"x": x}) <= LIMIT

    @pytest.mark.parametrize("p", [1, 2])
    def test_a_row_of_zeros_gets_none(self, p):
        x = np.zeros((2, 3), np.float32)
        _, found = by_nodes(node_model("LpNormalization", {"x": x}, p=p), {"x": x})
        assert not found["x"].any()


class TestSoftmax:
    @DRAWS
    @given(
        drawn=maps(),
        op=st.sampled_from(["Softmax", "LogSoftmax"]),
        axis=st.one_of(st.none(), st.integers(0, 2)),
        opset=st.sampled_from([9, 11, 12, 13, 18, 24]),
    )
    def test_any_axis(self, drawn, op, axis, opset):
        prove_softmax(drawn, op=op, axis=axis, opset=opset)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(
        drawn=maps(),
        op=st.sampled_from(["Softmax", "LogSoftmax"]),
        axis=st.one_of(st.none(), st.integers(0, 2)),
        opset=st.sampled_from([9, 11, 12, 13, 18, 24]),
    )
    def test_many(self, drawn, op, axis, opset):
        prove_softmax(drawn, op=op, axis=axis, opset=opset)

    @pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
    @pytest.mark.parametrize("opset", [13, 20])
    def test_differences(self, op, opset):
        x = noise(3, 6)
        assert agrees_with_differences(node_model(op, {"x": x}, opset=opset), {"x": x}) <= LIMIT

    @pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
    def test_saturated(self, op):
        x = np.array([[1000, 0, -1000], [1000, 1000, 999]], np.float32)
        function = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax}[op]
        assert torch_error(lambda t: function(t, -1), op, {"x": x}) <= LIMIT

    def test_hard_maxima_have_no_slope(self):
        nodes = [helper.make_node("Hardmax", ["x"], ["h"]), helper.make_node("Add", ["x", "h"], ["y"])]
        info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
        graph = helper.make_graph(nodes, "graph", info, [onnx.ValueInfoProto(name="y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
        outputs, found = by_nodes(model, {"x": noise(2, 3)})
        assert np.array_equal(found["x"], outputs[SEED])
