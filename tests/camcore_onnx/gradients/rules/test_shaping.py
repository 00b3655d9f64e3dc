"""Reshapes, joins, splits, repeats, borders and casts, against torch's autograd and against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from onnx_vjp import SEED, agrees_with_differences, by_nodes, node_model
from torch_vjp import DRAWS, MANY_DRAWS, OPSETS, error, noise, torch_error

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
maps = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(2, 6))
opsets = st.sampled_from(OPSETS)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def larger(x: NDArray[Any], *axes: int) -> NDArray[Any]:
    """Other numbers, two longer along some axes."""
    return noise(*(n + 2 * (a in axes) for a, n in enumerate(x.shape)), seed=1)


def by_version(opset: int, since: int, name: str, numbers: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whole numbers as a second input since an opset, as an attribute before."""
    return ({name: whole(*numbers)}, {}) if opset >= since else ({}, {name: numbers})


@st.composite
def permutations(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(shapes)
    order = draw(st.one_of(st.none(), st.permutations(range(len(shape)))))
    return {"shape": shape, "order": order, "opset": draw(opsets)}


def prove_transpose(case: dict[str, Any]) -> None:
    x, order = noise(*case["shape"]), case["order"]
    back = list(order) if order is not None else list(range(x.ndim))[::-1]
    given = {} if order is None else {"perm": back}
    assert torch_error(lambda t: t.permute(back), "Transpose", {"x": x}, opset=case["opset"], **given) == 0


class TestTranspose:
    @DRAWS
    @given(case=permutations())
    def test_any_order(self, case):
        prove_transpose(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=permutations())
    def test_any_order_widely(self, case):
        prove_transpose(case)


class TestReshape:
    @pytest.mark.parametrize("free", [(0,), (0, 2, 3)])
    @pytest.mark.parametrize("opset", [9, 13, 20])
    def test_lengths_may_be_free(self, free, opset):
        x = noise(2, 3, 4, 5)
        inputs, probe = {"x": x, "to": whole(0, 3, -1)}, {"x": larger(x, *free)}
        assert torch_error(lambda t: t.flatten(2), "Reshape", inputs, probe=probe, opset=opset) == 0

    def test_no_length_is_looked_up_where_one_alone_is_free(self):
        x = noise(2, 3, 4, 5)
        model = node_model("Reshape", {"x": x, "to": whole(0, -1)}, wanted=["x"], free=True)
        kinds = appended(model, {"x": x}, {"x": larger(x, 0)})
        assert "Shape" not in kinds

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_flatten(self, axis):
        x = noise(2, 3, 4)
        lead = int(np.prod(x.shape[:axis]))
        assert torch_error(lambda t: t.reshape(lead, -1), "Flatten", {"x": x}, axis=axis, opset=13) == 0

    @pytest.mark.parametrize("opset", [9, 13])
    @pytest.mark.parametrize("free", [(1,), (1, 3)])
    def test_squeeze_and_unsqueeze(self, opset, free):
        x = noise(1, 3, 1, 4)
        inputs, given = by_version(opset, 13, "axes", [0, 2])
        found = torch_error(
            lambda t: t.squeeze((0, 2)),
            "Squeeze",
            {"x": x, **inputs},
            probe={"x": larger(x, *free)},
            opset=opset,
            **given,
        )
        assert found == 0
        inputs, given = by_version(opset, 13, "axes", [0, 5])
        found = torch_error(
            lambda t: t[None, ..., None],
            "Unsqueeze",
            {"x": x, **inputs},
            probe={"x": larger(x, *free)},
            opset=opset,
            **given,
        )
        assert found == 0

    def test_squeeze_of_all_axes_of_length_one(self):
        assert torch_error(torch.squeeze, "Squeeze", {"x": noise(1, 3, 1)}, opset=13) == 0


def appended(model: onnx.ModelProto, feed: dict[str, Any], *probes: dict[str, Any]) -> list[str]:
    """The operators that a gradient consists of."""
    from camcore_onnx.gradients.vjp import add_vjp
    from camcore_onnx.reading.load import load

    loaded = load(model)
    graph = loaded.model.graph
    before = len(graph)
    add_vjp(loaded, graph.outputs[0], [v for v in graph.inputs if v.name in feed], [feed, *probes])
    return [node.op_type for node in list(graph)[before:]]


class TestIdentities:
    @pytest.mark.parametrize("op", ["Identity", "Dropout"])
    @pytest.mark.parametrize("opset", [9, 13])
    def test_nothing_happens(self, op, opset):
        assert torch_error(lambda t: t * 1, op, {"x": noise(2, 3)}, opset=opset) == 0

    def test_dropout_in_training_mode_is_refused(self):
        inputs = {"x": noise(2, 3), "ratio": np.float32(0.5), "training": np.array(True)}
        model = node_model("Dropout", inputs, wanted=["x"], opset=13)
        with pytest.raises(MethodNotPossible, match="Dropout 'node' cannot be differentiated: it is in training mode"):
            by_nodes(model, {"x": inputs["x"]})

    def test_dropout_of_a_fixed_inference_mode(self):
        inputs = {"x": noise(2, 3), "ratio": np.float32(0.5), "training": np.array(False)}
        assert torch_error(lambda t: t * 1, "Dropout", inputs, opset=13) == 0


class TestCast:
    @pytest.mark.parametrize("came", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("to", [np.float16, np.float32, np.float64])
    def test_between_floats(self, came, to):
        x = noise(3, 4).astype(came)
        model = node_model("Cast", {"x": x}, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
        outputs, gradients = by_nodes(model, {"x": x})
        assert gradients["x"].dtype == (np.float64 if came is np.float64 else np.float32)
        assert error(gradients["x"], outputs[SEED]) < 1e-7

    def test_like_another(self):
        inputs = {"x": noise(3, 4), "like": np.zeros(1, np.float64)}
        assert torch_error(lambda t: t * 1, "CastLike", inputs, opset=15) < LIMIT

    def test_rounding_is_refused(self):
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["x"], ["whole"], name="rounds", to=onnx.TensorProto.UINT8),
                helper.make_node("Cast", ["whole"], ["y"], to=onnx.TensorProto.FLOAT),
            ],
            "graph",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
            [onnx.ValueInfoProto(name="y")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        with pytest.raises(MethodNotPossible, match="'rounds' cannot be differentiated: it rounds to uint8"):
            by_nodes(model, {"x": noise(2)})


class TestConcat:
    @DRAWS
    @given(maps, st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(-4, 3), opsets)
    def test_parts_along_any_axis(self, shape, lengths, axis, opset):
        inputs = {f"x{k}": noise(*resized(shape, axis, n), seed=k) for k, n in enumerate(lengths)}
        found = torch_error(
            lambda *parts: torch.cat(parts, axis), "Concat", inputs, wanted=list(inputs), axis=axis, opset=opset
        )
        assert found == 0

    @pytest.mark.parametrize("free", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
    @pytest.mark.parametrize("opset", [9, 13])
    def test_lengths_along_the_axis_may_be_free(self, free, opset):
        inputs = {f"x{k}": noise(2, k + 2, seed=k) for k in range(3)}
        probe = {n: larger(x, *((0, 1) if k in free else (0,))) for k, (n, x) in enumerate(inputs.items())}
        options: dict[str, Any] = {"wanted": list(inputs), "probe": probe, "axis": 1, "opset": opset}
        if opset == 9 and len(free) > 1:
            with pytest.raises(MethodNotPossible, match="it joins 3 parts of free length, which needs opset 10"):
                torch_error(lambda *parts: torch.cat(parts, 1), "Concat", inputs, **options)
        else:
            assert torch_error(lambda *parts: torch.cat(parts, 1), "Concat", inputs, **options) == 0


def resized(shape: tuple[int, ...], axis: int, n: int) -> tuple[int, ...]:
    axis %= len(shape)
    return (*shape[:axis], n, *shape[axis + 1 :])


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    return {
        "sizes": sizes,
        "shape": draw(maps),
        "axis": draw(st.integers(-4, 3)),
        "output": draw(st.integers(0, len(sizes) - 1)),
        "opset": draw(opsets),
        "free": draw(st.booleans()),
    }


def prove_split(case: dict[str, Any]) -> None:
    sizes, axis = case["sizes"], case["axis"]
    x = noise(*resized(case["shape"], axis, sum(sizes)))
    inputs, given = by_version(case["opset"], 13, "split", sizes)
    others = tuple(a for a in range(4) if a != axis % 4) if case["free"] else ()
    found = torch_error(
        lambda t: t.split(sizes, axis)[case["output"]],
        "Split",
        {"x": x, **inputs},
        probe={"x": larger(x, *others)},
        outputs=len(sizes),
        output=case["output"],
        axis=axis,
        opset=case["opset"],
        **given,
    )
    assert found == 0


class TestSplit:
    @DRAWS
    @given(case=splits())
    def test_one_part_matters(self, case):
        prove_split(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=splits())
    def test_one_part_matters_widely(self, case):
        prove_split(case)

    @pytest.mark.parametrize("length", [6, 7])
    def test_number_of_parts(self, length):
        """The last part of an uneven split is shorter."""
        x = noise(2, length)
        for output in range(3):
            found = torch_error(
                lambda t, k=output: t.split(-(-length // 3), 1)[k],
                "Split",
                {"x": x},
                outputs=3,
                output=output,
                axis=1,
                opset=18,
                num_outputs=3,
            )
            assert found == 0

    @pytest.mark.parametrize("probe", [noise(3, 6), noise(3, 12)], ids=["batch", "axis"])
    def test_some_parts_matter(self, probe):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> graph (float[n, m] x) => (float[n, k] y)'
            "{ a, b, c = Split<axis = 1>(x)  s = Tanh(c)  y = Mul(a, s) }"
        )
        x = noise(2, 6)
        outputs, gradients = by_nodes(model, {"x": x}, probes=[{"x": probe}])
        t = torch.tensor(x, requires_grad=True)
        a, _, c = t.chunk(3, 1)
        (expected,) = torch.autograd.grad(a * torch.tanh(c), t, torch.tensor(outputs[SEED]))
        assert error(gradients["x"], expected.numpy()) < LIMIT


class TestRepeats:
    @DRAWS
    @given(maps, st.tuples(*[st.integers(1, 3)] * 4), opsets, st.booleans())
    def test_tile(self, shape, repeats, opset, free):
        x = noise(*shape)
        probe = {"x": larger(x, 0, 2, 3) if free else x}
        inputs = {"x": x, "repeats": whole(*repeats)}
        assert torch_error(lambda t: t.tile(repeats), "Tile", inputs, probe=probe, opset=opset) < LIMIT

    def test_tile_by_numbers_that_follow_the_images(self):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> graph (float[n, m] x, float[n] like) => (float[a, b] y)'
            "<int64[1] one = {1}> { n = Shape(like)  repeats = Concat<axis = 0>(one, n)  y = Tile(x, repeats) }"
        )
        x, like = noise(2, 3), noise(2)
        outputs, gradients = by_nodes(model, {"x": x, "like": like}, probes=[{"x": x, "like": noise(3)}], wanted=["x"])
        assert error(gradients["x"], outputs[SEED].reshape(2, 2, 3).sum(1)) < LIMIT

    @pytest.mark.parametrize("free", [False, True])
    @pytest.mark.parametrize("opset", [9, 13])
    def test_expand(self, free, opset):
        x = noise(2, 1, 4, 1)
        inputs = {"x": x, "to": whole(5, 1, 3, 1, 6)}
        probe = {"x": larger(x, 0, 2) if free else x}
        assert torch_error(lambda t: t.expand(5, -1, 3, -1, 6), "Expand", inputs, probe=probe, opset=opset) < LIMIT


@st.composite
def borders(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(3, 4), st.integers(3, 6), st.integers(3, 6)))
    low = -1 if mode == "constant" else 0
    pads = draw(st.lists(st.integers(low, 2), min_size=8, max_size=8))
    if mode != "constant":
        pads[0] = pads[4] = 0
    opset = draw(st.sampled_from([n for n in OPSETS if n >= 19] if mode == "wrap" else OPSETS))
    if sum(p for p in (pads[0], pads[4])) <= -shape[0]:
        pads[0] = pads[4] = 0
    return {"mode": mode, "shape": shape, "pads": pads, "opset": opset, "free": draw(st.booleans())}


def padded(pads: list[int], mode: str, fill: float = 0.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """What ONNX means, by positions: NumPy knows the modes."""

    def apply(t: torch.Tensor) -> torch.Tensor:
        for axis, n in enumerate(t.shape):
            before, after = pads[axis], pads[axis + t.ndim]
            if mode == "constant":
                flat = [0] * (2 * (t.ndim - 1 - axis)) + [before, after]
                t = torch.nn.functional.pad(t, flat, value=fill)
            else:
                t = t.index_select(axis, torch.tensor(np.pad(np.arange(n), (before, after), mode=mode)))
        return t

    return apply


def prove_pad(case: dict[str, Any]) -> None:
    x, opset, mode, pads = noise(*case["shape"]), case["opset"], case["mode"], case["pads"]
    inputs, given = by_version(opset, 11, "pads", pads)
    probe = {"x": larger(x, 0, 2, 3) if case["free"] else x}
    found = torch_error(padded(pads, mode), "Pad", {"x": x, **inputs}, probe=probe, opset=opset, mode=mode, **given)
    assert found < LIMIT


class TestPad:
    @DRAWS
    @given(case=borders())
    def test_all_modes(self, case):
        prove_pad(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=borders())
    def test_all_modes_widely(self, case):
        prove_pad(case)

    @pytest.mark.parametrize("mode", ["constant", "edge"])
    def test_some_axes(self, mode):
        inputs = {"x": noise(2, 3, 4), "pads": whole(1, 2, 0, 1), "fill": np.float32(0), "axes": whole(-1, 1)}
        assert torch_error(padded([0, 2, 1, 0, 1, 0], mode), "Pad", inputs, opset=18, mode=mode) < LIMIT

    def test_filled_with_a_number(self):
        inputs = {"x": noise(2, 3), "pads": whole(1, 0, 0, 2), "fill": np.float32(3)}
        assert torch_error(padded([1, 0, 0, 2], "constant", 3.0), "Pad", inputs, opset=13) == 0

    @pytest.mark.parametrize("mode", ["constant", "edge"])
    def test_widths_that_follow_the_images(self, mode):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> graph (float[n, m] x) => (float[a, b] y) <int64[2] one = {1, 0}>'
            f'{{ n = Shape(x)  pads = Concat<axis = 0>(one, n)  y = Pad<mode = "{mode}">(x, pads) }}'
        )
        x, other = noise(4, 3), noise(5, 7)
        if mode == "constant":
            outputs, gradients = by_nodes(model, {"x": x}, probes=[{"x": other}])
            assert error(gradients["x"], outputs[SEED][1:5, :3]) == 0
        else:
            with pytest.raises(MethodNotPossible, match="its pads in mode 'edge' depend on the image"):
                by_nodes(model, {"x": x}, probes=[{"x": other}])

    def test_a_filling_that_is_computed_is_refused(self):
        inputs = {"x": noise(2, 3), "pads": whole(1, 0, 0, 2), "fill": np.array(3, np.float32)}
        model = node_model("Pad", inputs, wanted=["x", "fill"], opset=13)
        with pytest.raises(MethodNotPossible, match="the number that it pads with depends on the layer"):
            by_nodes(model, {"x": inputs["x"], "fill": inputs["fill"]}, wanted=["fill"])


class TestBlocks:
    @pytest.mark.parametrize("free", [(), (0,), (0, 2, 3)])
    @pytest.mark.parametrize(("mode", "opset"), [(None, 9), ("DCR", 11), ("CRD", 11), ("CRD", 13)])
    def test_depth_to_space(self, free, mode, opset):
        x = noise(2, 12, 3, 4)

        def apply(t: torch.Tensor) -> torch.Tensor:
            n, c, h, w = t.shape
            if mode == "CRD":
                return torch.nn.functional.pixel_shuffle(t, 2)
            return t.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)

        given = {} if mode is None else {"mode": mode}
        probe = {"x": larger(x, *free)}
        assert torch_error(apply, "DepthToSpace", {"x": x}, probe=probe, opset=opset, blocksize=2, **given) == 0

    @pytest.mark.parametrize("opset", [9, 13])
    def test_space_to_depth(self, opset):
        def apply(t: torch.Tensor) -> torch.Tensor:
            n, c, h, w = t.shape
            return t.reshape(n, c, h // 3, 3, w // 3, 3).permute(0, 3, 5, 1, 2, 4).reshape(n, 9 * c, h // 3, w // 3)

        x = noise(2, 2, 6, 3)
        probe = {"x": noise(3, 2, 9, 12)}
        assert torch_error(apply, "SpaceToDepth", {"x": x}, probe=probe, opset=opset, blocksize=3) == 0


class TestOthers:
    @pytest.mark.parametrize("upper", [0, 1])
    @pytest.mark.parametrize("k", [None, -1, 2])
    def test_trilu(self, upper, k):
        inputs = {"x": noise(2, 4, 5), **({} if k is None else {"k": np.array(k)})}
        same = torch.triu if upper else torch.tril
        assert torch_error(lambda t: same(t, k or 0), "Trilu", inputs, opset=14, upper=upper) == 0

    @pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
    def test_reverse_sequence(self, axes):
        batch, time = axes
        x, lengths = noise(4, 4, 3), [1, 4, 2, 3]

        def apply(t: torch.Tensor) -> torch.Tensor:
            rows = [torch.cat([r[:n].flip(0), r[n:]]) for r, n in zip(t.unbind(batch), lengths, strict=True)]
            return torch.stack(rows, batch)

        inputs = {"x": x, "lengths": whole(*lengths)}
        found = torch_error(apply, "ReverseSequence", inputs, opset=10, batch_axis=batch, time_axis=time)
        assert found == 0


class TestDifferences:
    @pytest.mark.parametrize(
        ("op", "inputs", "options"),
        [
            ("Reshape", {"x": noise(2, 6), "to": whole(3, 4)}, {}),
            ("Transpose", {"x": noise(2, 3, 4)}, {"perm": [2, 0, 1]}),
            ("Concat", {"x": noise(2, 3), "z": noise(2, 2)}, {"axis": 1}),
            ("Split", {"x": noise(4, 3), "split": whole(1, 3)}, {"outputs": 2}),
            ("Expand", {"x": noise(3, 1), "to": whole(2, 3, 4)}, {}),
            ("Tile", {"x": noise(2, 3), "repeats": whole(2, 3)}, {}),
            ("Pad", {"x": noise(4, 5), "pads": whole(1, 2, 3, 0)}, {"mode": "reflect"}),
            ("Pad", {"x": noise(4, 5), "pads": whole(1, 2, 3, 1)}, {}),
            ("DepthToSpace", {"x": noise(1, 8, 2, 3)}, {"blocksize": 2, "mode": "CRD"}),
            ("Trilu", {"x": noise(3, 3)}, {}),
            ("Squeeze", {"x": noise(2, 1, 3), "axes": whole(1)}, {}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_of_the_reference(self, op, inputs, options):
        wanted = [n for n, a in inputs.items() if a.dtype.kind == "f"]
        model = node_model(op, inputs, wanted=wanted, opset=20, **options)
        assert agrees_with_differences(model, {n: inputs[n] for n in wanted}) < 1e-4


class TestJoinedAgainAndAgain:
    """A dense block: each Concat begins with what the one before has joined."""

    def model(self, axis: int) -> onnx.ModelProto:
        nodes, parts = [], ["x"]
        for k in range(4):
            source = parts[0] if len(parts) == 1 else f"joined{k}"
            if len(parts) > 1:
                nodes.append(helper.make_node("Concat", parts, [source], axis=axis))
            nodes.append(helper.make_node("Tanh", [source], [f"t{k}"]))
            nodes.append(helper.make_node("ReduceMean", [f"t{k}"], [f"part{k}"], axes=[axis], keepdims=1))
            parts = [*parts, f"part{k}"]
        nodes += [helper.make_node("Concat", parts, ["all"], axis=axis), helper.make_node("Sin", ["all"], ["y"])]
        info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 4])
        graph = helper.make_graph(nodes, "g", [info], [onnx.ValueInfoProto(name="y")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    @staticmethod
    def network(x: torch.Tensor, axis: int) -> dict[str, torch.Tensor]:
        parts, made = [x], {"x": x}
        for k in range(4):
            source = torch.cat(parts, axis)
            made |= {f"joined{k}": source} if k else {}
            if k:
                source.retain_grad()
            parts = [*parts, source.tanh().mean(axis, keepdim=True)]
        return made | {"y": torch.cat(parts, axis).sin()}

    @pytest.mark.parametrize("axis", [1, 2, -1])
    @pytest.mark.parametrize("wanted", [["x"], ["x", "joined2"], ["joined1", "joined2", "joined3"]])
    def test_gradients_go_in_one_piece_and_stop_at_what_is_wanted(self, axis: int, wanted: list[str]) -> None:
        feed = {"x": noise(2, 3, 4)}
        outputs, gradients = by_nodes(self.model(axis), feed, wanted=wanted)
        x = torch.tensor(feed["x"]).double().requires_grad_()
        made = self.network(x, axis)
        made["y"].backward(torch.tensor(outputs[SEED]).double())
        for name in wanted:
            assert error(gradients[name], made[name].grad.numpy()) < 1e-5
