"""The gradients of arithmetic, against autograd and against differences of the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_vjp import SEED, Feed, agrees_with_differences, by_nodes, node_model, readers
from torch_vjp import error_against_torch

OPSETS = (9, 11, 13, 17, 18, 20, 24)
LIMIT = 1e-5
FEW = settings(max_examples=15, deadline=None, derandomize=True)
MANY = settings(max_examples=300, deadline=None)

# operator -> the same in PyTorch, and between which numbers
UNARY: dict[str, tuple[Callable[..., torch.Tensor], float, float]] = {
    "Neg": (torch.neg, -3, 3),
    "Sqrt": (torch.sqrt, 0.1, 9),
    "Exp": (torch.exp, -3, 3),
    "Log": (torch.log, 0.1, 9),
    "Erf": (torch.erf, -3, 3),
    "Abs": (torch.abs, -3, 3),
    "Reciprocal": (torch.reciprocal, 0.2, 3),
    "Sin": (torch.sin, -7, 7),
    "Cos": (torch.cos, -7, 7),
    "Tan": (torch.tan, -1.4, 1.4),
    "Asin": (torch.asin, -0.95, 0.95),
    "Acos": (torch.acos, -0.95, 0.95),
    "Atan": (torch.atan, -5, 5),
    "Sinh": (torch.sinh, -3, 3),
    "Cosh": (torch.cosh, -3, 3),
    "Asinh": (torch.asinh, -5, 5),
    "Acosh": (torch.acosh, 1.1, 9),
    "Atanh": (torch.atanh, -0.95, 0.95),
}


def _sum(*operands: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*operands)).sum(0)


def _mean(*operands: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*operands)).mean(0)


def _max(*operands: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*operands)).amax(0)


def _min(*operands: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*operands)).amin(0)


# operator -> the same in PyTorch, how many operands at most, the least number, attributes
BROADCAST: dict[str, tuple[Callable[..., torch.Tensor], int, float, dict[str, Any]]] = {
    "Add": (torch.add, 2, -3, {}),
    "Sub": (torch.sub, 2, -3, {}),
    "Mul": (torch.mul, 2, -3, {}),
    "Div": (torch.div, 2, 0.5, {}),
    "Pow": (torch.pow, 2, 0.5, {}),
    "Mod": (torch.fmod, 2, 0.5, {"fmod": 1}),
    "Sum": (_sum, 4, -3, {}),
    "Mean": (_mean, 4, -3, {}),
    "Max": (_max, 4, -3, {}),
    "Min": (_min, 4, -3, {}),
}


def numbers(seed: int, *shapes: tuple[int, ...], low: float = -3, high: float = 3) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [np.asarray(generator.uniform(low, high, shape)).astype(np.float32) for shape in shapes]


def named(*arrays: Any) -> dict[str, Any]:
    return {f"x{i}": a for i, a in enumerate(arrays)}


def longer(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n + 1 if n > 1 else 1 for n in shape)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
SEEDS = st.integers(0, 2**20)


def check_unary(op: str, shape: tuple[int, ...], seed: int, opset: int, free: bool) -> None:
    function, low, high = UNARY[op]
    feed, probe = (named(*numbers(seed, s, low=low, high=high)) for s in (shape, longer(shape)))
    model = node_model(op, feed, opset=opset, free=free)
    assert error_against_torch(model, feed, function, probes=[probe] if free else []) <= LIMIT


def check_broadcast(op: str, shapes: tuple[tuple[int, ...], ...], seed: int, opset: int, free: bool) -> None:
    function, count, low, attributes = BROADCAST[op]
    feed, probe = (named(*numbers(seed, *map(f, shapes[:count]), low=low)) for f in (lambda shape: shape, longer))
    model = node_model(op, feed, opset=opset, free=free, **attributes)
    # sums over what was broadcast may nearly cancel: they are no better than the rounding of their terms, of about 1
    assert error_against_torch(model, feed, function, probes=[probe] if free else [], least=1.0) <= LIMIT


class TestFunctionsOfOneTensor:
    @pytest.mark.parametrize("op", UNARY)
    @FEW
    @given(SHAPES, SEEDS, st.sampled_from(OPSETS), st.booleans())
    def test_agree_with_torch(self, op: str, shape: tuple[int, ...], seed: int, opset: int, free: bool) -> None:
        check_unary(op, shape, seed, opset, free)

    @pytest.mark.slow
    @pytest.mark.parametrize("op", UNARY)
    @MANY
    @given(SHAPES, SEEDS, st.sampled_from(OPSETS), st.booleans())
    def test_agree_with_torch_widely(self, op: str, shape: tuple[int, ...], seed: int, opset: int, free: bool) -> None:
        check_unary(op, shape, seed, opset, free)

    @pytest.mark.parametrize("opset", [9, 24])
    @pytest.mark.parametrize("op", UNARY)
    def test_agree_with_differences(self, op: str, opset: int) -> None:
        _, low, high = UNARY[op]
        feed = named(*numbers(5, (2, 3, 4), low=low, high=high))
        assert agrees_with_differences(node_model(op, feed, opset=opset), feed) <= LIMIT

    def test_the_square_root_is_endless_at_zero(self) -> None:
        feed = {"x": np.array([0, 4], np.float32)}
        _, found = by_nodes(node_model("Sqrt", feed), feed, seed=np.ones(2, np.float32))
        assert found["x"].tolist() == [np.inf, 0.25]

    def test_the_absolute_value_is_flat_at_zero(self) -> None:
        feed = {"x": np.array([-2, 0, 2], np.float32)}
        _, found = by_nodes(node_model("Abs", feed), feed, seed=np.ones(3, np.float32))
        assert found["x"].tolist() == [-1, 0, 1]

    def test_half_precision_is_computed_in_single(self) -> None:
        feed = {"x": numbers(1, (4, 5), low=0.5)[0].astype(np.float16)}
        model = node_model("Log", feed)
        _, found = by_nodes(model, feed, seed=np.ones((4, 5), np.float32))
        assert found["x"].dtype == np.float32
        np.testing.assert_allclose(found["x"], 1 / feed["x"].astype(np.float32), rtol=1e-6)


class TestOperandsThatAreBroadcast:
    @pytest.mark.parametrize("op", BROADCAST)
    @settings(FEW, max_examples=25)
    @given(
        hnp.mutually_broadcastable_shapes(num_shapes=4, max_dims=4, max_side=3),
        SEEDS,
        st.sampled_from(OPSETS[1:]),
        st.booleans(),
    )
    def test_agree_with_torch(
        self, op: str, shapes: hnp.BroadcastableShapes, seed: int, opset: int, free: bool
    ) -> None:
        check_broadcast(op, shapes.input_shapes, seed, opset, free)

    @pytest.mark.slow
    @pytest.mark.parametrize("op", BROADCAST)
    @MANY
    @given(
        hnp.mutually_broadcastable_shapes(num_shapes=4, max_dims=4, max_side=3),
        SEEDS,
        st.sampled_from(OPSETS[1:]),
        st.booleans(),
    )
    def test_agree_with_torch_widely(
        self, op: str, shapes: hnp.BroadcastableShapes, seed: int, opset: int, free: bool
    ) -> None:
        check_broadcast(op, shapes.input_shapes, seed, opset, free)

    @pytest.mark.parametrize("opset", [9, 11, 24])
    @pytest.mark.parametrize("op", sorted(set(BROADCAST) - {"Mod"}))
    def test_agree_with_differences(self, op: str, opset: int) -> None:
        _, count, low, attributes = BROADCAST[op]
        feed = named(*numbers(6, (2, 3, 4), (3, 1), (1,), (2, 1, 4), low=low)[:count])
        assert agrees_with_differences(node_model(op, feed, opset=opset, **attributes), feed) <= LIMIT

    @pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
    def test_remainders_of_either_sign(self, signs: tuple[int, int]) -> None:
        a, b = numbers(3, (5, 6), (6,), low=0.5)
        feed = named(a * signs[0] * 4, b * signs[1])
        assert error_against_torch(node_model("Mod", feed, fmod=1), feed, torch.fmod) <= LIMIT

    def test_one_tensor_twice(self) -> None:
        node = helper.make_node("Mul", ["x", "x"], ["y"])
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
        graph = helper.make_graph([node], "graph", [info], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        feed = {"x": np.array([1, -2, 3], np.float32)}
        assert error_against_torch(model, feed, lambda x: x * x) <= LIMIT


class TestPow:
    @pytest.mark.parametrize("kind", [np.float32, np.int64])
    @pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2, 3, 4])
    def test_whole_exponents_of_numbers_of_either_sign(self, exponent: int, kind: type) -> None:
        feed = {"x": numbers(exponent + 2, (3, 4))[0]}
        for opset in (12, 20) if kind is np.int64 else OPSETS:
            model = node_model("Pow", feed | {"e": np.array(exponent, kind)}, wanted=["x"], opset=opset)
            assert error_against_torch(model, feed, lambda x: x**exponent) <= LIMIT

    @pytest.mark.parametrize("exponent", [0.5, -0.5, 1.5, 2.5])
    def test_broken_exponents(self, exponent: float) -> None:
        feed = {"x": numbers(4, (3, 4), low=0.3)[0]}
        model = node_model("Pow", feed | {"e": np.array([exponent], np.float32)}, wanted=["x"])
        assert error_against_torch(model, feed, lambda x: x**exponent) <= LIMIT

    @pytest.mark.parametrize("opset", [9, 11, 20])
    @pytest.mark.parametrize("fixed", [False, True])
    def test_exponents_that_differ(self, opset: int, fixed: bool) -> None:
        exponents = np.array([0, 1, 2, 3, -1], np.float32)
        feed = {"x": numbers(8, (4, 5))[0]}
        if fixed:
            model = node_model("Pow", feed | {"e": exponents}, wanted=["x"], opset=opset)
            assert error_against_torch(model, feed, lambda x: x ** torch.tensor(exponents)) <= LIMIT
        else:
            feed["e"] = exponents
            model = node_model("Pow", feed, opset=opset)
            found = by_nodes(model, feed, wanted=["x"])[1]["x"]
            assert np.isfinite(found).all()
            assert error_against_torch(model, feed, torch.pow, wanted=["x"]) <= LIMIT

    def test_at_zero_as_torch(self) -> None:
        feed = {"x": np.zeros(4, np.float32), "e": np.array([0, 1, 2, 3], np.float32)}
        assert error_against_torch(node_model("Pow", feed), feed, torch.pow) <= LIMIT


class TestExtremes:
    @pytest.mark.parametrize("opset", [9, 24])
    @pytest.mark.parametrize(("op", "function"), [("Max", torch.maximum), ("Min", torch.minimum)])
    def test_equal_operands_share_evenly(self, op: str, function: Any, opset: int) -> None:
        a, b = (np.round(x) for x in numbers(2, (6, 7), (7,)))
        assert (a == b).any()
        feed = named(a, b)
        assert error_against_torch(node_model(op, feed, opset=opset), feed, function) <= LIMIT

    @pytest.mark.parametrize(("op", "function"), [("Max", _max), ("Min", _min)])
    def test_three_equal_operands_get_a_third(self, op: str, function: Any) -> None:
        feed = named(*(np.array([1, 2, 3], np.float32) for _ in range(3)))
        seed = np.array([3, 6, 9], np.float32)
        _, found = by_nodes(node_model(op, feed), feed, seed=seed)
        np.testing.assert_allclose(found["x1"], [1, 2, 3], rtol=1e-6)
        assert error_against_torch(node_model(op, feed), feed, function) <= LIMIT

    def test_one_operand_is_the_result(self) -> None:
        feed = named(np.array([1, 2], np.float32))
        assert error_against_torch(node_model("Max", feed), feed, lambda x: x) == 0


def clipped(opset: int, low: float | None, high: float | None, feed: Feed, **options: Any) -> Any:
    """A model that clips between fixed bounds."""
    if opset < 11:
        given = {"min": low, "max": high}
        return node_model("Clip", feed, opset=opset, **{n: float(b) for n, b in given.items() if b is not None})
    bounds = {n: None if b is None else np.array(b, np.float32) for n, b in (("low", low), ("high", high))}
    return node_model("Clip", {**feed, **bounds}, wanted=["x"], opset=opset, **options)


class TestClip:
    @pytest.mark.parametrize("opset", [9, 11, 13, 20])
    @pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 1), (0.5, None), (None, 2), (None, None)])
    def test_fixed_bounds(self, low: float | None, high: float | None, opset: int) -> None:
        feed = {"x": numbers(3, (3, 4, 5), high=9)[0]}
        model = clipped(opset, low, high, feed)
        expected = (lambda x: x) if low is None and high is None else (lambda x: torch.clamp(x, low, high))
        assert error_against_torch(model, feed, expected) <= LIMIT
        assert agrees_with_differences(model, feed) <= LIMIT

    def test_nothing_passes_bounds_that_are_exchanged(self) -> None:
        feed = {"x": numbers(3, (3, 4, 5), high=9)[0]}
        assert error_against_torch(clipped(20, 2, -2, feed), feed, lambda x: x.clamp(2, -2)) == 0

    def test_free_lengths(self) -> None:
        feed, probe = ({"x": numbers(3, shape)[0]} for shape in ((2, 3), (3, 5)))
        model = clipped(20, 0, 1, feed, free=True)
        assert error_against_torch(model, feed, lambda x: x.clamp(0, 1), probes=[probe]) <= LIMIT

    def test_the_input_of_fixed_bounds_is_not_read_again(self) -> None:
        feed = {"x": numbers(3, (2, 3))[0]}
        assert readers(clipped(20, 0, 6, feed), feed) == ["Clip"]

    def test_nothing_passes_at_a_fixed_bound(self) -> None:
        feed = {"x": np.array([-1, 0, 3, 6, 7], np.float32)}
        assert error_against_torch(clipped(20, 0, 6, feed), feed, torch.nn.functional.relu6) == 0

    def test_half_precision_keeps_what_is_just_inside(self) -> None:
        x = np.array([0, 6e-8, 5.996, 6, 1], np.float16)
        model = node_model("Clip", {"x": x, "low": np.float16(0), "high": np.float16(6)}, wanted=["x"])
        _, found = by_nodes(model, {"x": x}, seed=np.ones(5, np.float32))
        assert found["x"].tolist() == [0, 1, 1, 0, 1]

    @pytest.mark.parametrize("present", [("low", "high"), ("low",), ("high",)])
    @pytest.mark.parametrize("bounds", [(-1, 1), (1, -1), (0, 2)])
    def test_computed_bounds_are_operands_of_max_and_min(
        self, bounds: tuple[float, float], present: tuple[str, ...]
    ) -> None:
        given = {"low": np.float32(bounds[0]), "high": np.float32(bounds[1])}
        feed = {"x": np.round(numbers(3, (4, 5))[0])} | {n: np.asarray(given[n]) for n in present}
        assert (feed["x"] == bounds[0]).any()
        model = node_model(
            "Clip", {"x": feed["x"], "low": feed.get("low"), "high": feed.get("high")}, wanted=list(feed)
        )

        def function(x: torch.Tensor, *bounds: torch.Tensor) -> torch.Tensor:
            found = dict(zip(present, bounds, strict=True))
            raised = torch.maximum(x, found["low"]) if "low" in found else x
            return torch.minimum(raised, found["high"]) if "high" in found else raised

        assert error_against_torch(model, feed, function) <= LIMIT


class TestWhere:
    @pytest.mark.parametrize("opset", OPSETS)
    @FEW
    @given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3), SEEDS, st.booleans())
    def test_agrees_with_torch(self, opset: int, shapes: hnp.BroadcastableShapes, seed: int, free: bool) -> None:
        feed, probe = (self._feed(seed, *map(f, shapes.input_shapes)) for f in (lambda shape: shape, longer))
        model = node_model("Where", feed, wanted=list(feed), opset=opset, free=free)
        assert error_against_torch(model, feed, torch.where, probes=[probe] if free else []) <= LIMIT

    def test_agrees_with_differences(self) -> None:
        feed = self._feed(1, (3, 1), (2, 3, 4), (4,))
        assert agrees_with_differences(node_model("Where", feed, wanted=list(feed)), feed) <= LIMIT

    @staticmethod
    def _feed(seed: int, *shapes: tuple[int, ...]) -> dict[str, Any]:
        condition, a, b = numbers(seed, *shapes)
        return {"condition": np.asarray(condition > 0), "a": a, "b": b}


@pytest.mark.parametrize("sigmoid_first", [False, True])
@pytest.mark.parametrize("opset", [9, 13, 20])
def test_silu_is_differentiated_at_once_and_its_sigmoid_may_be_read_elsewhere(sigmoid_first: bool, opset: int) -> None:
    pair = ["s", "x"] if sigmoid_first else ["x", "s"]
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", pair, ["z"]),
        helper.make_node("Add", ["z", "s"], ["y"]),
    ]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(helper.make_graph(nodes, "g", [info], [result]), opset_imports=opsets, ir_version=8)
    feed = {"x": np.array([[-60, -3, -0.5], [0, 0.7, 90]], np.float32)}
    assert error_against_torch(model, feed, lambda x: torch.nn.functional.silu(x) + x.sigmoid()) < LIMIT


def test_the_sigmoid_of_a_silu_may_be_the_layer() -> None:
    """It then has a gradient of its own: of ``z = x s + s`` it is ``x + 1``, while that of ``x`` is the whole."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["z"]),
        helper.make_node("Add", ["z", "s"], ["y"]),
    ]
    info, result = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [info], [result]), ir_version=10)
    model.opset_import[0].version = 17
    feed = {"x": np.array([[-6, -3, -0.5], [0, 0.7, 9]], np.float32)}
    outputs, gradients = by_nodes(model, feed, wanted=["x", "s"])
    np.testing.assert_allclose(gradients["s"], outputs[SEED] * (feed["x"] + 1), rtol=1e-5)
    s = 1 / (1 + np.exp(-feed["x"]))
    np.testing.assert_allclose(gradients["x"], outputs[SEED] * (s + (feed["x"] + 1) * s * (1 - s)), rtol=1e-5)
