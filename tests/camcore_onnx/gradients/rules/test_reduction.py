"""The gradients of reductions, against autograd and against differences of the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from camcore_onnx.gradients.vjp import add_vjp
from camcore_onnx.reading.load import load
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_vjp import agrees_with_differences, by_nodes, node_model
from torch import Tensor
from torch_vjp import error_against_torch

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
OPSETS = (9, 11, 13, 17, 18, 20, 24)


def _product(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


# operator -> the same in PyTorch, with axes kept
REDUCTIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: torch.linalg.vector_norm(x, dim=axes, keepdim=True),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes, keepdim=True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: x.logsumexp(axes, keepdim=True),
}


@dataclass(frozen=True)
class Reduction:
    """One reduction: its input, along which axes, and how they are given."""

    op: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    keepdims: int | None = None
    noop: int = 0
    opset: int = 20
    free: bool = False
    seed: int = 0

    @property
    def by_input(self) -> bool:
        return self.opset >= (13 if self.op == "ReduceSum" else 18)

    def numbers(self, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
        generator = np.random.default_rng(self.seed)
        low = 0.2 if self.op == "ReduceLogSum" else -2
        return {"x": np.asarray(generator.uniform(low, 2, shape or self.shape)).astype(np.float32)}

    @property
    def model(self) -> onnx.ModelProto:
        inputs, attributes = self.numbers(), {} if self.keepdims is None else {"keepdims": self.keepdims}
        if self.noop:
            attributes["noop_with_empty_axes"] = 1
        if self.axes is not None and self.by_input:
            inputs["axes"] = np.array(self.axes, np.int64)
        elif self.axes:
            attributes["axes"] = list(self.axes)
        return node_model(self.op, inputs, wanted=["x"], opset=self.opset, free=self.free, **attributes)

    def torch(self, x: Tensor) -> Tensor:
        axes = self.axes or (() if self.noop else tuple(range(x.ndim)))
        if not axes:
            return REDUCTIONS[self.op](x.unsqueeze(-1), (-1,)).squeeze(-1)
        kept = REDUCTIONS[self.op](x, axes)
        return kept if self.keepdims != 0 else kept.squeeze(axes)

    @property
    def error(self) -> float:
        probes = [self.numbers(tuple(n + 1 for n in self.shape))] if self.free else []
        return error_against_torch(self.model, self.numbers(), self.torch, probes=probes, least=0.02)


@st.composite
def reductions(draw: st.DrawFn, op: str) -> Reduction:
    opset = draw(st.sampled_from(OPSETS))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    rank = len(shape)
    some = draw(st.sets(st.integers(0, rank - 1)))
    axes = tuple(a - rank if opset >= 11 and draw(st.booleans()) else a for a in sorted(some))
    given_ = draw(st.sampled_from([axes, None])) if opset >= 18 or axes else None
    known = opset >= (13 if op == "ReduceSum" else 18)
    return Reduction(
        op,
        shape,
        given_,
        draw(st.sampled_from([None, 0, 1])),
        draw(st.integers(0, 1)) if known else 0,
        opset,
        draw(st.booleans()),
        draw(st.integers(0, 2**20)),
    )


class TestReductions:
    @pytest.mark.parametrize("op", REDUCTIONS)
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(st.data())
    def test_agree_with_torch(self, op: str, data: st.DataObject) -> None:
        assert data.draw(reductions(op)).error <= LIMIT

    @pytest.mark.slow
    @pytest.mark.parametrize("op", REDUCTIONS)
    @settings(max_examples=400, deadline=None)
    @given(st.data())
    def test_agree_with_torch_widely(self, op: str, data: st.DataObject) -> None:
        assert data.draw(reductions(op)).error <= LIMIT

    @pytest.mark.parametrize("opset", [9, 13, 18, 24])
    @pytest.mark.parametrize("op", REDUCTIONS)
    def test_agree_with_differences(self, op: str, opset: int) -> None:
        for axes, keepdims in (((1, 2), 0), ((0,), 1), (None, 1)):
            case = Reduction(op, (2, 3, 4), axes, keepdims, opset=opset)
            assert agrees_with_differences(case.model, case.numbers()) <= LIMIT

    @pytest.mark.parametrize("op", REDUCTIONS)
    def test_a_single_number(self, op: str) -> None:
        case = Reduction(op, ())
        assert error_against_torch(case.model, case.numbers(), lambda x: case.torch(x[None])[0]) <= LIMIT

    def test_half_precision_is_computed_in_single(self) -> None:
        x = np.full((4, 64), 3, np.float16)
        _, found = by_nodes(node_model("ReduceL2", {"x": x}, keepdims=0), {"x": x}, seed=np.ones((), np.float32))
        assert found["x"].dtype == np.float32
        np.testing.assert_allclose(found["x"], 3 / 48, rtol=1e-6)

    @pytest.mark.parametrize("keepdims", [0, 1])
    @pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
    @pytest.mark.parametrize("opset", [9, 20])
    def test_what_is_the_same_all_along_stays_short(self, op: str, opset: int, keepdims: int) -> None:
        case = Reduction(op, (2, 3, 5, 7), (2, 3), keepdims, opset=opset)
        loaded = load(case.model)
        graph = loaded.model.graph
        (whole,) = add_vjp(loaded, graph.outputs[0], [graph.inputs[0]], [case.numbers()])
        expand = whole.value.producer()
        assert expand is not None
        assert [n.op_type for n in graph].count("Expand") == 1
        assert expand.op_type == "Expand"  # the last node, which makes it as long as the input


class TestCorners:
    @pytest.mark.parametrize("opset", [9, 24])
    @pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
    def test_equal_extremes_share_evenly_as_in_torch(self, op: str, opset: int) -> None:
        feed = {"x": np.round(Reduction(op, (5, 12)).numbers()["x"])}
        axes = {"axes": np.array([1], np.int64)} if opset >= 18 else {}
        model = node_model(op, feed | axes, wanted=["x"], opset=opset, **({} if axes else {"axes": [1]}))
        assert error_against_torch(model, feed, lambda x: REDUCTIONS[op](x, (1,))) <= LIMIT

    @pytest.mark.parametrize("opset", [9, 11, 24])
    @pytest.mark.parametrize("zeros", [0, 1, 2, 3])
    def test_products_with_zeros(self, zeros: int, opset: int) -> None:
        x = Reduction("ReduceProd", (4, 3)).numbers()["x"]
        x[1, :zeros] = 0
        axes = {"axes": np.array([1], np.int64)} if opset >= 18 else {}
        model = node_model("ReduceProd", {"x": x} | axes, wanted=["x"], opset=opset, **({} if axes else {"axes": [1]}))
        assert error_against_torch(model, {"x": x}, lambda x: x.prod(1, keepdim=True)) <= LIMIT

    @pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
    def test_norms_are_flat_at_zero_as_in_torch(self, op: str) -> None:
        x = Reduction(op, (3, 4)).numbers()["x"]
        x[1] = 0
        model = node_model(op, {"x": x, "axes": np.array([1], np.int64)}, wanted=["x"])
        assert error_against_torch(model, {"x": x}, lambda x: REDUCTIONS[op](x, (1,))) <= LIMIT

    def test_large_exponents(self) -> None:
        feed = {"x": np.array([[1000, 999, -1000], [-1000, -1001, -999]], np.float32)}
        model = node_model("ReduceLogSumExp", feed | {"axes": np.array([1], np.int64)}, wanted=["x"])
        assert error_against_torch(model, feed, lambda x: x.logsumexp(1, keepdim=True)) <= 1e-4  # 1000 in single

    def test_axes_that_follow_the_image_are_refused(self) -> None:
        feed = {"x": np.ones((2, 3, 4), np.float32), "axes": np.array([1], np.int64)}
        model = node_model("ReduceSum", feed, wanted=["x", "axes"], keepdims=0)
        probe = {**feed, "axes": np.array([2], np.int64)}
        with pytest.raises(MethodNotPossible, match="ReduceSum 'node' cannot be differentiated: its axes depend on"):
            by_nodes(model, feed, probes=[probe])


class TestCumSum:
    @pytest.mark.parametrize("opset", [11, 14, 24])
    @pytest.mark.parametrize("exclusive", [0, 1])
    @pytest.mark.parametrize("reverse", [0, 1])
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_agrees_with_torch(self, axis: int, reverse: int, exclusive: int, opset: int) -> None:
        feed = Reduction("CumSum", (3, 4, 5)).numbers()
        model = node_model(
            "CumSum",
            feed | {"axis": np.array(axis, np.int64)},
            wanted=["x"],
            opset=opset,
            free=True,
            reverse=reverse,
            exclusive=exclusive,
        )

        def function(x: Tensor) -> Tensor:
            x = x.flip(axis) if reverse else x
            y = x.cumsum(axis) - (x if exclusive else 0)
            return y.flip(axis) if reverse else y

        probes = [Reduction("CumSum", (4, 6, 2)).numbers()]
        assert error_against_torch(model, feed, function, probes=probes) <= LIMIT

    def test_an_axis_that_is_computed(self) -> None:
        feed = Reduction("CumSum", (3, 4)).numbers() | {"axis": np.array(1, np.int32)}
        model = node_model("CumSum", feed, wanted=["x", "axis"])
        assert error_against_torch(model, feed, lambda x, axis: x.cumsum(1)) <= LIMIT
        assert agrees_with_differences(model, feed) <= LIMIT
