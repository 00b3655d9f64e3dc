"""Slices, gathers and scatters, against torch's autograd and against differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from camcore_torch.exporting import to_onnx
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_vjp import SEED, agrees_with_differences, by_nodes, node_model
from torch_vjp import DRAWS, MANY_DRAWS, error, noise, torch_error

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
FAR = 2**31 - 1
lengths = st.integers(1, 7)
shapes = st.lists(lengths, min_size=1, max_size=4).map(tuple)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def longer(x: NDArray[Any], *axes: int) -> NDArray[Any]:
    """Other numbers, two longer along some axes."""
    return noise(*(n + 2 * (a in axes) for a, n in enumerate(x.shape)), seed=1)


def taken(t: torch.Tensor, cuts: dict[int, slice]) -> torch.Tensor:
    """Python's slices, steps backwards too."""
    for axis, cut in cuts.items():
        t = t.index_select(axis, torch.arange(t.shape[axis])[np.arange(t.shape[axis])[cut].copy()])
    return t


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    opset = draw(st.sampled_from([9, 10, 13, 18]))
    shape = draw(shapes)
    bounds = st.one_of(st.integers(-9, 9), st.sampled_from([FAR, -FAR, 2**63 - 1]))
    steps = st.just(1) if opset < 10 else st.sampled_from([1, 2, 3, -1, -2])
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    chosen = {a: draw(st.tuples(bounds, bounds, steps)) for a in axes}
    kept = {a: cut for a, cut in chosen.items() if len(range(shape[a])[slice(*cut)])}
    return {"opset": opset, "shape": shape, "cuts": kept or {0: (0, FAR, 1)}, "free": draw(st.booleans())}


def prove_slice(case: dict[str, Any]) -> None:
    x, opset = noise(*case["shape"]), case["opset"]
    numbers = list(zip(*case["cuts"].values(), strict=True))
    names = ["starts", "ends", "axes", "steps"]
    columns = [list(numbers[0]), list(numbers[1]), list(case["cuts"]), list(numbers[2])]
    if opset < 10:
        inputs, given_ = {}, dict(zip(names[:3], columns[:3], strict=True))
    else:
        inputs, given_ = {n: whole(*c) for n, c in zip(names, columns, strict=True)}, {}
    python = {a: slice(*cut) for a, cut in case["cuts"].items()}
    probe = {"x": longer(x, *range(x.ndim)) if case["free"] else x}
    assert torch_error(lambda t: taken(t, python), "Slice", {"x": x, **inputs}, probe=probe, opset=opset, **given_) == 0


RUN_TIME = '<ir_version: 8, opset_import: ["" : {opset}]> graph (float[n, c, h, w] x) => (float[a, b, d, e] y)'


def against_torch(model: onnx.ModelProto, function: Any, x: NDArray[Any], *probes: NDArray[Any]) -> float:
    """The largest error of a graph of one input."""
    outputs, gradients = by_nodes(model, {"x": x}, probes=[{"x": p} for p in probes], wanted=["x"])
    t = torch.tensor(x.astype(np.float64), requires_grad=True)
    y = function(t)
    (expected,) = torch.autograd.grad(y, t, torch.tensor(outputs[SEED]).double())
    name = model.graph.output[0].name
    return max(error(outputs[name], y.detach().numpy()), error(gradients["x"], expected.numpy()))


class TestSlice:
    @DRAWS
    @given(case=cuts())
    def test_any_bounds_and_steps(self, case):
        prove_slice(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=cuts())
    def test_any_bounds_and_steps_widely(self, case):
        prove_slice(case)

    @pytest.mark.parametrize("step", [1, 2, -1, -3])
    @pytest.mark.parametrize("opset", [10, 13])
    def test_bounds_that_follow_the_images(self, opset, step):
        """From a third of the height on, or up to there backwards."""
        ends = "far" if step > 0 else "back"
        model = onnx.parser.parse_model(
            RUN_TIME.format(opset=opset)
            + f"<int64[1] three = {{3}}, int64[1] two = {{2}}, int64[1] step = {{{step}}}, int64[1] far = {{{FAR}}},"
            f" int64[1] back = {{{-FAR}}}>"
            "{ s = Shape(x)  h = Gather<axis = 0>(s, two)  start = Div(h, three)"
            f" y = Slice(x, start, {ends}, two, step) }}"
        )
        for x in (noise(2, 3, 7, 5), noise(1, 3, 12, 5)):
            cut = slice(x.shape[2] // 3, None, step)
            assert against_torch(model, lambda t, cut=cut: taken(t, {2: cut}), x, noise(2, 3, 9, 6)) == 0

    def test_a_step_that_follows_the_images_is_refused(self):
        model = onnx.parser.parse_model(
            RUN_TIME.format(opset=13) + f"<int64[1] zero = {{0}}, int64[1] far = {{{FAR}}}>"
            "{ s = Shape(x)  step = Gather<axis = 0>(s, zero)  y = Slice(x, zero, far, zero, step) }"
        )
        with pytest.raises(
            MethodNotPossible, match="Slice 'y' cannot be differentiated: its steps depend on the image"
        ):
            by_nodes(model, {"x": noise(2, 1, 1, 1)}, probes=[{"x": noise(3, 1, 1, 1)}])


@st.composite
def gathers(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[axis]
    opset = draw(st.sampled_from([9, 11, 13, 18]))
    indices = st.integers(0 if opset < 11 else -n, n - 1)
    index = draw(
        st.one_of(
            indices.map(np.int64),
            st.permutations(range(n)).map(np.array),
            st.lists(indices, min_size=1, max_size=9).map(np.array),
            st.lists(indices, min_size=6, max_size=6).map(lambda v: np.array(v).reshape(2, 3)),
        )
    )
    return {
        "shape": shape,
        "axis": axis,
        "index": index,
        "opset": opset,
        "free": draw(st.booleans()),
        "fixed": draw(st.booleans()),
    }


def picked(t: torch.Tensor, index: NDArray[np.int64], axis: int) -> torch.Tensor:
    axis, flat = axis % t.ndim, torch.tensor(np.asarray(index).reshape(-1) % t.shape[axis])
    return t.index_select(axis, flat).reshape((*t.shape[:axis], *np.shape(index), *t.shape[axis + 1 :]))


def prove_gather(case: dict[str, Any]) -> None:
    """The indices are an initialiser, or an input of the graph: then they are known only when it runs."""
    x, index, axis = noise(*case["shape"]), np.asarray(case["index"], np.int64), case["axis"]
    others = range(x.ndim) if index.min() >= 0 else [a for a in range(x.ndim) if a != axis % x.ndim]
    probe = {"x": longer(x, *others) if case["free"] else x}
    if case["fixed"]:
        options = {"probe": probe, "axis": axis, "opset": case["opset"]}
        assert torch_error(lambda t: picked(t, index, axis), "Gather", {"x": x, "i": index}, **options) < LIMIT
        return
    inputs = {"x": x, "i": index}
    model = node_model("Gather", inputs, wanted=["x", "i"], axis=axis, opset=case["opset"], free=True)
    outputs, gradients = by_nodes(model, inputs, probes=[{"x": probe["x"], "i": index}])
    t = torch.tensor(x, requires_grad=True)
    (expected,) = torch.autograd.grad(picked(t, index, axis), t, torch.tensor(outputs[SEED]))
    assert error(gradients["x"], expected.numpy()) < LIMIT


class TestGather:
    @DRAWS
    @given(case=gathers())
    def test_any_indices(self, case):
        prove_gather(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=gathers())
    def test_any_indices_widely(self, case):
        prove_gather(case)

    @pytest.mark.parametrize("opset", [13, 18])
    def test_many_repeats(self, opset):
        """More than could be gathered: all of it goes to one place."""
        x, index = noise(64, 2), np.full(500, 3)
        found = torch_error(lambda t: picked(t, index, 0), "Gather", {"x": x, "i": index}, opset=opset)
        assert found < LIMIT

    def test_indices_that_the_numbers_decide_are_no_constant(self):
        """The probes agree on the largest; the images do not."""
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 18]> graph (float[1, 4] x) => (float[1, 1] y)'
            "{ i = ArgMax<axis = 1, keepdims = 0>(x)  y = Gather<axis = 1>(x, i) }"
        )
        from camcore_onnx.gradients.vjp import add_vjp
        from camcore_onnx.reading.load import load, serialize
        from camcore_onnx.running.runtime import make_session

        loaded = load(model)
        graph = loaded.model.graph
        (gradient,) = add_vjp(loaded, graph.outputs[0], [graph.inputs[0]], [{"x": np.eye(4, dtype=np.float32)[:1]}])
        graph.outputs.append(gradient.value)
        session = make_session(serialize(loaded.model), device="cpu")
        for k in range(4):
            x = np.eye(4, dtype=np.float32)[k : k + 1]
            found = session.run([gradient.value.name], {"x": x, SEED: np.ones((1, 1), np.float32)})[0]
            assert found.tolist() == x.tolist()

    def test_half_precision(self):
        inputs = {"x": noise(3, 4, dtype=np.float16), "i": whole(0, 2, 2)}
        model = node_model("Gather", inputs, axis=1, opset=13)
        outputs, gradients = by_nodes(model, {"x": inputs["x"]})
        expected = np.stack(
            [outputs[SEED][:, 0], 0 * outputs[SEED][:, 0], outputs[SEED][:, 1:].sum(1), 0 * outputs[SEED][:, 0]], 1
        )
        assert gradients["x"].dtype == np.float32
        assert error(gradients["x"], expected) < LIMIT


@st.composite
def gathers_nd(draw: st.DrawFn) -> dict[str, Any]:
    batch = draw(st.integers(0, 2))
    over = draw(st.integers(1, 2))
    lead = draw(st.lists(st.integers(1, 3), min_size=batch, max_size=batch))
    run = draw(st.lists(lengths, min_size=over, max_size=over))
    rest = draw(st.lists(st.integers(1, 3), max_size=2))
    shared = draw(st.lists(st.integers(1, 4), min_size=0 if batch else 1, max_size=2))
    index = np.stack(
        [
            draw(
                st.builds(lambda s, n=n: np.random.default_rng(s).integers(-n, n, [*lead, *shared]), st.integers(0, 99))
            )
            for n in run
        ],
        -1,
    )
    opset = draw(st.sampled_from([11, 18] if batch == 0 else [12, 13, 18]))
    return {"shape": (*lead, *run, *rest), "index": index, "batch": batch, "opset": opset, "fixed": draw(st.booleans())}


def picked_nd(t: torch.Tensor, index: NDArray[np.int64], batch: int) -> torch.Tensor:
    shared = index.ndim - 1
    lead: list[Any] = [torch.arange(t.shape[a]).reshape(-1, *[1] * (shared - 1 - a)) for a in range(batch)]
    return t[(*lead, *(torch.tensor(index[..., k]) for k in range(index.shape[-1])))]


def prove_gather_nd(case: dict[str, Any]) -> None:
    inputs, batch = {"x": noise(*case["shape"]), "i": case["index"].astype(np.int64)}, case["batch"]
    about = {} if case["opset"] == 11 else {"batch_dims": batch}
    wanted = ["x"] if case["fixed"] else ["x", "i"]
    model = node_model("GatherND", inputs, wanted=wanted, opset=case["opset"], free=True, **about)
    feed = {n: inputs[n] for n in wanted}
    probe = dict(feed)
    if batch == 0 and case["index"].min() >= 0:
        probe["x"] = longer(inputs["x"], *range(inputs["x"].ndim))
    elif not case["fixed"] and batch:
        probe = {n: np.concatenate([a, a]) for n, a in feed.items()}
    outputs, gradients = by_nodes(model, feed, probes=[probe], wanted=["x"])
    t = torch.tensor(inputs["x"], requires_grad=True)
    y = picked_nd(t, inputs["i"], batch)
    (expected,) = torch.autograd.grad(y, t, torch.tensor(outputs[SEED]))
    assert error(outputs["y"], y.detach().numpy()) == 0
    assert error(gradients["x"], expected.numpy()) < LIMIT


class TestGatherND:
    @DRAWS
    @given(case=gathers_nd())
    def test_any_indices(self, case):
        prove_gather_nd(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=gathers_nd())
    def test_any_indices_widely(self, case):
        prove_gather_nd(case)


@st.composite
def elements(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))
    opset = draw(st.sampled_from([11, 13, 16, 18]))
    short = opset >= 16 and draw(st.booleans())
    size = [draw(st.integers(1, n)) if short else n for n in shape]
    size[axis] = draw(lengths)
    index = np.random.default_rng(draw(st.integers(0, 99))).integers(-shape[axis], shape[axis], size)
    return {"x": noise(*shape), "axis": axis, "index": index, "opset": opset, "fixed": draw(st.booleans())}


def prove_gather_elements(case: dict[str, Any]) -> None:
    x, axis, index = case["x"], case["axis"], case["index"].astype(np.int64)
    wanted = ["x"] if case["fixed"] else ["x", "i"]
    model = node_model("GatherElements", {"x": x, "i": index}, wanted=wanted, opset=case["opset"], axis=axis, free=True)
    feed = {n: a for n, a in (("x", x), ("i", index)) if n in wanted}
    outputs, gradients = by_nodes(model, feed, wanted=["x"])
    t = torch.tensor(x, requires_grad=True)
    y = t.gather(axis, torch.tensor(index % x.shape[axis]))
    (expected,) = torch.autograd.grad(y, t, torch.tensor(outputs[SEED]))
    assert error(gradients["x"], expected.numpy()) < LIMIT


class TestGatherElements:
    @DRAWS
    @given(case=elements())
    def test_any_indices(self, case):
        prove_gather_elements(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=elements())
    def test_any_indices_widely(self, case):
        prove_gather_elements(case)

    @pytest.mark.parametrize("opset", [13, 18])
    def test_free_lengths(self, opset):
        x, index = noise(2, 5, 3), np.random.default_rng(0).integers(0, 5, (2, 4, 3))
        probe = {"x": longer(x, 0, 1), "i": np.zeros((4, 4, 3), np.int64)}
        model = node_model("GatherElements", {"x": x, "i": index}, wanted=["x", "i"], opset=opset, axis=1, free=True)
        outputs, gradients = by_nodes(model, {"x": x, "i": index}, probes=[probe], wanted=["x"])
        t = torch.tensor(x, requires_grad=True)
        (expected,) = torch.autograd.grad(t.gather(1, torch.tensor(index)), t, torch.tensor(outputs[SEED]))
        assert error(gradients["x"], expected.numpy()) < LIMIT

    def test_shorter_indices_are_refused_in_old_opsets(self):
        model = node_model("GatherElements", {"x": noise(3, 4), "i": np.zeros((2, 4), np.int64)}, axis=1, opset=13)
        with pytest.raises(MethodNotPossible, match="its indices are shorter along axis 0, which needs opset 16"):
            by_nodes(model, {"x": noise(3, 4)})


def distinct(seed: int, n: int, size: list[int], axis: int) -> NDArray[np.int64]:
    """Indices along an axis, none twice in a row."""
    order = np.random.default_rng(seed).random([n if a == axis else k for a, k in enumerate(size)]).argsort(axis)
    return order.take(np.arange(size[axis]), axis)


class TestScatter:
    @DRAWS
    @given(
        shapes, st.integers(0, 3), st.integers(0, 99), st.sampled_from([11, 13, 16, 18]), st.booleans(), st.booleans()
    )
    def test_elements(self, shape, axis, seed, opset, adds, free):
        x, axis = noise(*shape), axis % len(shape)
        adds = adds and opset >= 16
        size = [int(n) for n in np.random.default_rng(seed).integers(1, np.array(shape) + 1)]
        index = (
            np.random.default_rng(seed).integers(-shape[axis], shape[axis], size)
            if adds
            else distinct(seed, shape[axis], size, axis)
        )
        inputs = {"x": x, "i": index.astype(np.int64), "u": noise(*size, seed=2)}
        spots = torch.tensor(index % shape[axis])
        found = torch_error(
            lambda t, u: t.scatter_add(axis, spots, u) if adds else t.scatter(axis, spots, u),
            "ScatterElements",
            inputs,
            wanted=["x", "u"],
            probe={"x": longer(x, *range(x.ndim)) if free else x, "u": inputs["u"]},
            opset=opset,
            axis=axis,
            **({"reduction": "add"} if adds else {}),
        )
        assert found < LIMIT

    @DRAWS
    @given(st.integers(1, 2), st.integers(0, 99), st.sampled_from([11, 13, 16, 18]), st.booleans())
    def test_nd(self, over, seed, opset, adds):
        x, generator = noise(4, 5, 3), np.random.default_rng(seed)
        count, adds = int(generator.integers(1, 5)), adds and opset >= 16
        places = generator.permutation(prod_of(x.shape[:over]))[:count] if not adds else generator.integers(0, 4, count)
        index = np.stack(np.unravel_index(places, x.shape[:over]), -1)
        inputs = {"x": x, "i": index.astype(np.int64), "u": noise(count, *x.shape[over:], seed=2)}
        spots = tuple(torch.tensor(index[:, k]) for k in range(over))
        found = torch_error(
            lambda t, u: t.index_put(spots, u, accumulate=bool(adds)),
            "ScatterND",
            inputs,
            wanted=["x", "u"],
            opset=opset,
            **({"reduction": "add"} if adds else {}),
        )
        assert found < LIMIT

    def test_opset_9(self):
        inputs = {"x": noise(3, 4), "i": whole(2, 0, 1).reshape(1, 3), "u": noise(1, 3)}
        index = torch.tensor(inputs["i"])
        u = torch.tensor(inputs["u"]).double()
        assert torch_error(lambda t: t.scatter(1, index, u), "Scatter", inputs, opset=9, axis=1) == 0
        model = node_model("Scatter", inputs, opset=9, axis=1)
        with pytest.raises(MethodNotPossible, match="the gradient of its updates needs opset 11"):
            by_nodes(model, {"x": inputs["x"], "u": inputs["u"]})

    def test_other_reductions_are_refused(self):
        inputs = {"x": noise(3, 4), "i": whole(2, 0, 1).reshape(1, 3), "u": noise(1, 3)}
        model = node_model("ScatterElements", inputs, opset=18, axis=1, reduction="mul")
        with pytest.raises(MethodNotPossible, match="its reduction is 'mul'; expected 'none' or 'add'"):
            by_nodes(model, {"x": inputs["x"], "u": inputs["u"]})


def prod_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


class TestOthers:
    @pytest.mark.parametrize("axis", [0, 1, -1])
    @pytest.mark.parametrize(("opset", "largest"), [(9, 1), (10, 1), (11, 0), (18, 1)])
    def test_top_k(self, opset, axis, largest):
        x = noise(4, 5, 6)
        inputs, given_ = ({"x": x, "k": whole(3)}, {}) if opset >= 10 else ({"x": x}, {"k": 3})
        given_ |= {"largest": largest} if opset >= 11 else {}
        found = torch_error(
            lambda t: t.topk(3, axis, largest=bool(largest)).values,
            "TopK",
            inputs,
            outputs=2,
            opset=opset,
            axis=axis,
            probe={"x": noise(6, 7, 8)},
            **given_,
        )
        assert found == 0

    @pytest.mark.parametrize("fixed", [True, False])
    @pytest.mark.parametrize(("opset", "axis"), [(9, 1), (11, None), (18, 0), (18, None)])
    def test_compress(self, opset, axis, fixed):
        x, mask = noise(3, 4), np.array([False, True, True])
        model = node_model(
            "Compress",
            {"x": x, "m": mask},
            wanted=["x"] if fixed else ["x", "m"],
            opset=opset,
            free=True,
            **({} if axis is None else {"axis": axis}),
        )
        feed = {"x": x} if fixed else {"x": x, "m": mask}
        outputs, gradients = by_nodes(model, feed, probes=[feed | {"x": noise(5, 6)}], wanted=["x"])
        expected = np.zeros_like(x)
        if axis is None:
            expected.reshape(-1)[1:3] = outputs[SEED]
        else:
            np.moveaxis(expected, axis, 0)[1:3] = np.moveaxis(outputs[SEED], axis, 0)
        assert error(gradients["x"], expected) == 0


class TestDifferences:
    @pytest.mark.parametrize(
        ("op", "inputs", "options"),
        [
            (
                "Slice",
                {"x": noise(5, 6), "s": whole(4, 1), "e": whole(0, FAR), "a": whole(0, 1), "t": whole(-2, 2)},
                {},
            ),
            ("Gather", {"x": noise(5, 3), "i": whole(1, 1, 4)}, {}),
            ("GatherND", {"x": noise(3, 4, 2), "i": whole(0, 1, 2, 3).reshape(2, 2)}, {}),
            ("GatherElements", {"x": noise(3, 4), "i": whole(0, 1, 1, 2).reshape(1, 4)}, {}),
            ("ScatterElements", {"x": noise(3, 4), "i": whole(0, 1).reshape(1, 2), "u": noise(1, 2)}, {"axis": 1}),
            ("ScatterND", {"x": noise(3, 4), "i": whole(0, 2).reshape(2, 1), "u": noise(2, 4)}, {"reduction": "add"}),
            ("TopK", {"x": noise(3, 6), "k": whole(2)}, {"outputs": 2}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_of_the_reference(self, op, inputs, options):
        wanted = [n for n, a in inputs.items() if a.dtype.kind == "f"]
        model = node_model(op, inputs, wanted=wanted, opset=20, **options)
        assert agrees_with_differences(model, {n: inputs[n] for n in wanted}) < 1e-4


class ShiftedWindows(torch.nn.Module):
    """What Swin does around its attention: rolled, cut into windows, mixed, put back, and merged by steps of two."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.roll(images.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        n, h, w, c = x.shape
        tokens = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        tokens = self.mix(tokens) * torch.tanh(tokens)
        back = tokens.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = torch.roll(back, (1, 1), (1, 2))
        parts = [x[:, a::2, b::2, :] for b in (0, 1) for a in (0, 1)]
        return torch.tanh(torch.cat(parts, -1))


class Strided(torch.nn.Module):
    """Windows that overlap in memory: the exporters gather at computed places."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(images)
        return torch.as_strided(x, (x.shape[0], 4, 3, 4), (64, 16, 4, 2)) * 1.5


class TestExports:
    @pytest.mark.parametrize(
        ("exporter", "opset", "free"),
        [("torchscript", 13, False), ("torchscript", 17, True), ("dynamo", 18, False), ("dynamo", 20, True)],
    )
    @pytest.mark.parametrize("module", [ShiftedWindows, Strided])
    def test_as_autograd(self, module, exporter, opset, free):
        torch.manual_seed(0)
        net, images = module().eval(), noise(2, 4, 4, 4)
        model = onnx.load_from_string(to_onnx(net, (2, 4, 4, 4), exporter=exporter, opset=opset, free_size=free))
        name = model.graph.input[0].name
        other = noise(3, 4, 6, 8) if free else noise(3, 4, 4, 4)
        outputs, gradients = by_nodes(model, {name: images}, probes=[{name: other}])
        t = torch.tensor(images, requires_grad=True)
        (expected,) = torch.autograd.grad(net(t), t, torch.tensor(outputs[SEED]))
        assert error(gradients[name], expected.numpy()) < LIMIT
