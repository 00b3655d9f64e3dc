"""The gradients of pooling, against autograd and against differences of the reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_vjp import SEED, agrees_with_differences, by_nodes, node_model
from torch.nn import functional as F
from torch_vjp import DRAWS, MANY_DRAWS, noise, torch_error

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
MAX_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _ends(case: dict[str, Any], axis: int, length: int) -> tuple[int, int, int]:
    """Padding at both ends of an axis, and how many windows there are."""
    size, stride, dilation = (case[n][axis] for n in ("kernel_shape", "strides", "dilations"))
    reach, rank = (size - 1) * dilation + 1, len(case["kernel_shape"])
    auto = case.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        count = -(-length // stride)
        total = max((count - 1) * stride + reach - length, 0)
        before = (total + (auto == "SAME_LOWER")) // 2
        return before, total - before, count
    pads = case.get("pads", [0] * 2 * rank)
    before, behind = pads[axis], pads[axis + rank]
    steps, rest = divmod(length + before + behind - reach, stride)
    count = steps + 1 + (rest > 0 and bool(case.get("ceil_mode")))
    return before, behind, count - ((count - 1) * stride >= length + before)


def _padded(x: torch.Tensor, case: dict[str, Any], value: float, *, only: bool = False) -> torch.Tensor:
    """With what the windows need behind the map; ``only`` cuts off what no window reaches."""
    pads: list[int] = []
    for axis, length in reversed(list(enumerate(x.shape[2:]))):
        before, _, count = _ends(case, axis, length)
        reach = (case["kernel_shape"][axis] - 1) * case["dilations"][axis] + 1
        pads += [before, (count - 1) * case["strides"][axis] + reach - length - before]
    return F.pad(x, pads, value=value)


def max_pool(x: torch.Tensor, case: dict[str, Any]) -> torch.Tensor:
    pool = MAX_POOLS[x.ndim - 3]
    return pool(_padded(x, case, -torch.inf), case["kernel_shape"], case["strides"], 0, case["dilations"])


def sums(x: torch.Tensor, case: dict[str, Any]) -> torch.Tensor:
    """Of each window."""
    windows = _padded(x, case, 0.0)
    for axis, (size, stride, dilation) in enumerate(
        zip(case["kernel_shape"], case["strides"], case["dilations"], strict=True), start=2
    ):
        windows = windows.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation].sum(-1)
    return windows


def average_pool(x: torch.Tensor, case: dict[str, Any]) -> torch.Tensor:
    ones = torch.ones_like(x)
    if not case.get("count_include_pad"):
        return sums(x, case) / sums(ones, case)
    ends = [_ends(case, axis, length) for axis, length in enumerate(x.shape[2:])]
    around = F.pad(ones, [n for before, behind, _ in reversed(ends) for n in (before, behind)], value=1.0)
    flat = {**case, "pads": [0] * 2 * len(ends), "auto_pad": "NOTSET"}
    return sums(x, case) / _first(sums(around, {**flat, "ceil_mode": 1}), [count for *_, count in ends])


def _first(x: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    return x[(slice(None), slice(None), *(slice(n) for n in counts))]


@st.composite
def pools(draw: st.DrawFn, *, dilated_since: int, sized_since: int = 1) -> dict[str, Any]:
    """A pooling: attributes, the shape of the map, the opset and whether lengths are free."""
    rank = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    opset = draw(st.sampled_from([n for n in (9, 10, 11, 13, 16, 18, 19, 22) if n >= sized_since]))
    case: dict[str, Any] = {"kernel_shape": each(1, 4), "strides": each(1, 3), "dilations": [1] * rank}
    pad = draw(st.sampled_from(["none", "given", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if pad == "given":
        case["pads"] = [draw(st.integers(0, size // 2)) for size in [*case["kernel_shape"]] * 2]
    elif pad != "none":
        case["auto_pad"] = pad
    if pad.startswith("SAME"):  # ONNX Runtime has no negative padding
        case["strides"] = [min(s, k) for s, k in zip(case["strides"], case["kernel_shape"], strict=True)]
    if opset >= dilated_since and not pad.startswith("SAME"):
        case["dilations"] = each(1, 2)
    if opset >= 22 and draw(st.booleans()) and not pad.startswith("SAME"):
        case["ceil_mode"] = 1
    lengths = [draw(st.integers(7, 11)) for _ in range(rank)]
    if draw(st.booleans()):  # windows that fill the map, without a rest
        lengths = [
            (k - 1) * d + 1 + 3 * s
            for k, s, d in zip(case["kernel_shape"], case["strides"], case["dilations"], strict=True)
        ]
    free = opset >= 11 and draw(st.booleans())
    return {"case": case, "shape": (2, 3, *lengths), "opset": opset, "free": free, "seed": draw(st.integers(0, 99))}


def _options(drawn: dict[str, Any]) -> dict[str, Any]:
    """For :func:`torch_error`: attributes that old opsets lack are left out."""
    case = {n: v for n, v in drawn["case"].items() if n != "dilations" or set(v) != {1}}
    shape = drawn["shape"]
    probe = {"x": noise(1, 3, *(n + 1 + a for a, n in enumerate(shape[2:])))} if drawn["free"] else None
    return {"opset": drawn["opset"], "probe": probe, **case}


def prove_max_pool(drawn: dict[str, Any], *, ties: bool) -> None:
    x = noise(*drawn["shape"], seed=drawn["seed"])
    x = np.maximum(np.round(x), 0) if ties else x
    assert torch_error(lambda t: max_pool(t, drawn["case"]), "MaxPool", {"x": x}, **_options(drawn)) <= LIMIT


def prove_average_pool(drawn: dict[str, Any], *, padded: int) -> None:
    x, case = noise(*drawn["shape"], seed=drawn["seed"]), {**drawn["case"], "count_include_pad": padded}
    options = {**_options(drawn), "count_include_pad": padded}
    assert torch_error(lambda t: average_pool(t, case), "AveragePool", {"x": x}, **options) <= LIMIT


def prove_norm_pool(drawn: dict[str, Any], *, p: int) -> None:
    x, case = noise(*drawn["shape"], seed=drawn["seed"]), drawn["case"]
    function = lambda t: sums(t.abs() ** p, case) ** (1 / p)  # noqa: E731
    assert torch_error(function, "LpPool", {"x": x}, **_options(drawn), p=p) <= LIMIT


class TestMaxPool:
    @DRAWS
    @given(drawn=pools(dilated_since=10), ties=st.booleans())
    def test_any_windows(self, drawn, ties):
        prove_max_pool(drawn, ties=ties)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=pools(dilated_since=10), ties=st.booleans())
    def test_many_windows(self, drawn, ties):
        prove_max_pool(drawn, ties=ties)

    @pytest.mark.parametrize("opset", [9, 11, 18, 22])
    def test_differences(self, opset):
        x = np.random.default_rng(0).permutation(2 * 3 * 9 * 8).reshape(2, 3, 9, 8).astype(np.float32) / 100
        model = node_model("MaxPool", {"x": x}, opset=opset, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        assert agrees_with_differences(model, {"x": x}) <= LIMIT

    def test_the_first_of_equal_places_takes_all(self):
        x = np.zeros((1, 1, 4, 4), np.float32)
        model = node_model("MaxPool", {"x": x}, kernel_shape=[2, 2], strides=[2, 2])
        _, found = by_nodes(model, {"x": x}, seed=np.ones((1, 1, 2, 2), np.float32))
        assert np.array_equal(found["x"][0, 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))

    def test_columns_first_changes_only_the_indices(self):
        x = np.maximum(np.round(noise(1, 2, 6, 6)), 0)
        case = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1]}
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "storage_order": 1, "outputs": 2}
        assert torch_error(lambda t: max_pool(t, case), "MaxPool", {"x": x}, **options) <= LIMIT

    def test_half_precision(self):
        x = noise(1, 2, 7, 7, dtype=np.float16)
        case = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1]}
        options = {"kernel_shape": [3, 3], "strides": [2, 2]}
        assert torch_error(lambda t: max_pool(t, case), "MaxPool", {"x": x}, **options) <= LIMIT

    def test_rounding_up_inside_the_map_at_any_opset(self):
        x = noise(1, 2, 8, 8)
        case = {"kernel_shape": [3, 3], "strides": [2, 2], "dilations": [1, 1], "ceil_mode": 1}
        options = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "opset": 10}
        assert torch_error(lambda t: max_pool(t, case), "MaxPool", {"x": x}, **options) <= LIMIT

    def test_windows_that_start_behind_the_map_need_opset_22(self):
        x = noise(1, 2, 5, 5)
        options = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}
        with pytest.raises(MethodNotPossible, match="has opset 20, convert it to 22"):
            by_nodes(node_model("MaxPool", {"x": x}, opset=20, **options), {"x": x})
        case = {**options, "dilations": [1, 1]}
        assert torch_error(lambda t: max_pool(t, case), "MaxPool", {"x": x}, opset=22, **options) <= LIMIT

    def test_free_lengths_need_opset_11(self):
        x = noise(1, 2, 6, 6)
        model = node_model("MaxPool", {"x": x}, opset=9, free=True, kernel_shape=[2, 2], strides=[2, 2])
        with pytest.raises(MethodNotPossible, match="images of any size need opset 11, the model has 9; convert it"):
            by_nodes(model, {"x": x}, probes=[{"x": noise(1, 2, 9, 9)}])

    def test_free_lengths_one_step_apart_at_opset_9(self):
        x, case = noise(1, 2, 6, 6), {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1]}
        options = {"kernel_shape": [3, 3], "opset": 9, "probe": {"x": noise(2, 2, 7, 9)}}
        assert torch_error(lambda t: max_pool(t, case), "MaxPool", {"x": x}, **options) <= LIMIT


class TestAveragePool:
    @DRAWS
    @given(drawn=pools(dilated_since=19), padded=st.integers(0, 1))
    def test_any_windows(self, drawn, padded):
        prove_average_pool(drawn, padded=padded)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=pools(dilated_since=19), padded=st.integers(0, 1))
    def test_many_windows(self, drawn, padded):
        prove_average_pool(drawn, padded=padded)

    @pytest.mark.parametrize("opset", [9, 11, 18, 22])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_differences(self, opset, stride):
        x = noise(2, 3, 9, 8)
        model = node_model(
            "AveragePool", {"x": x}, opset=opset, kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4
        )
        assert agrees_with_differences(model, {"x": x}) <= LIMIT

    def test_one_window_writes_no_map(self):
        x = noise(2, 3, 7, 7)
        options = {"kernel_shape": [7, 7], "strides": [1, 1]}
        case = {**options, "dilations": [1, 1]}
        assert torch_error(lambda t: average_pool(t, case), "AveragePool", {"x": x}, **options) <= LIMIT

    def test_half_precision(self):
        x, case = np.ones((1, 2, 6, 6), np.float16), {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [1, 1]}
        options = {"kernel_shape": [2, 2], "strides": [2, 2]}
        assert torch_error(lambda t: average_pool(t, case), "AveragePool", {"x": x}, **options) <= LIMIT


class TestNormPool:
    @DRAWS
    @given(drawn=pools(dilated_since=18), p=st.integers(1, 3))
    def test_any_windows(self, drawn, p):
        prove_norm_pool(drawn, p=p)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(drawn=pools(dilated_since=18), p=st.integers(1, 3))
    def test_many_windows(self, drawn, p):
        prove_norm_pool(drawn, p=p)

    @pytest.mark.parametrize("p", [2, 3])
    def test_zeros_get_none(self, p):
        x = np.zeros((1, 1, 4, 4), np.float32)
        _, found = by_nodes(node_model("LpPool", {"x": x}, kernel_shape=[2, 2], p=p), {"x": x})
        assert not found["x"].any()


GLOBAL = {
    "GlobalAveragePool": lambda t: t.flatten(2).mean(2).reshape(*t.shape[:2], *[1] * (t.ndim - 2)),
    "GlobalMaxPool": lambda t: (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[t.ndim - 3](t, 1),
    "GlobalLpPool": lambda t: t.flatten(2).norm(dim=2).reshape(*t.shape[:2], *[1] * (t.ndim - 2)),
}


class TestGlobal:
    @pytest.mark.parametrize("op", GLOBAL)
    @pytest.mark.parametrize("opset", [9, 13, 20])
    @pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 2)])
    @pytest.mark.parametrize("free", [False, True])
    def test_against_torch(self, op, opset, shape, free):
        probe = {"x": noise(1, shape[1], *(n + 1 for n in shape[2:]))} if free else None
        assert torch_error(GLOBAL[op], op, {"x": noise(*shape)}, opset=opset, probe=probe) <= LIMIT

    @pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
    def test_differences(self, op):
        x = noise(2, 3, 4, 5)
        assert agrees_with_differences(node_model(op, {"x": x}, opset=18), {"x": x}) <= LIMIT

    def test_the_first_of_equal_places_takes_all(self):
        x = np.ones((1, 2, 3, 3), np.float32)
        outputs, found = by_nodes(node_model("GlobalMaxPool", {"x": x}), {"x": x})
        expected = np.zeros_like(x)
        expected[:, :, :1, :1] = outputs[SEED]
        assert np.array_equal(found["x"], expected)


class TestUnpool:
    def test_each_number_is_read_where_it_went(self):
        x, places = noise(1, 1, 2, 2), np.array([[[[0, 3], [9, 14]]]], np.int64)
        model = node_model("MaxUnpool", {"x": x, "places": places}, kernel_shape=[2, 2], strides=[2, 2])
        outputs, found = by_nodes(model, {"x": x})
        assert np.array_equal(found["x"], outputs[SEED].reshape(-1)[places])


def test_windows_of_maxima_too_long_to_write_out_are_refused() -> None:
    inputs = {"x": noise(1, 1, 300)}
    model = node_model("MaxPool", inputs, kernel_shape=[257], pads=[1, 1])
    with pytest.raises(MethodNotPossible, match="its windows have 257 places along an axis; the limit is 256"):
        by_nodes(model, inputs)
