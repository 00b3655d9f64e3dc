"""Heads of all kinds against plain ONNX Runtime: the mean of each class's map plus the bias is the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_graphs import FORMS, Graph, classifier, finish, forms_at, images, newest_opset, pixels_for, run_plainly

import camcore
from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Tap
from camcore.scores import softmax

NEWEST = newest_opset()
FLAT_HEADS = ("gemm", "matmul", "matmul_add", "left_matmul", "two", "none")
MAP_HEADS = ("conv", "conv_grouped")
SPACES = {1: (9,), 2: (6, 5), 3: (4, 3, 5)}
CHANNELS, CLASSES = 6, 4


def assert_complete(model: Any, pixels: Any, *, limit: float = 1e-3, squash: str = "", slack: Any = 0.0) -> Any:
    """Explain all classes; the maps' means plus the bias must be what the untouched model gives."""
    explained = camcore.explainer(model, device="cpu", threads=1, method="cam")
    out = explained(pixels, classes="all")
    head = explained.plan.tap.need_head()
    axes = tuple(range(2, out.maps.ndim))
    rebuilt = out.maps.astype(np.float64).mean(axis=axes) + head.bias
    expected = run_plainly(model, pixels)[0].astype(np.float64)
    expected = expected.reshape(len(expected), -1)
    assert out.maps.shape[:2] == expected.shape
    for found in (rebuilt, out.scores.astype(np.float64)):
        shown = _squashed(found, squash)
        scale = max(1.0, np.abs(out.scores).max()) if squash else np.abs(expected).max()
        assert np.all(np.abs(shown - expected) <= limit * scale + slack)
    assert np.all(np.abs(rebuilt - out.scores) <= limit * np.abs(out.scores).max() + slack)
    return out


def _squashed(scores: Any, kind: str) -> Any:
    if kind == "Sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * scores))
    if kind == "LogSoftmax":
        shifted = scores - scores.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return softmax(scores) if kind else scores


def tap_of(model: Any) -> Tap:
    return OnnxBackend(model, device="cpu", threads=1).tap()


@st.composite
def recipes(draw: Any) -> dict[str, Any]:
    """The words that describe a random graph; ``build`` makes it."""
    opset = draw(st.integers(7, NEWEST))
    axes = draw(st.integers(1, 3))
    last = draw(st.booleans())
    fixed = draw(st.booleans())
    before = "none" if last else draw(st.sampled_from(("none", "none", "none", "conv")))
    pools = ["mean", "mean_keep", "means", "means_keep"]
    pools += [] if last else ["global", "mean_negative"]
    pools += ["sum"] if fixed else []
    pools += ["average", "average_padded"] if fixed and not last else []
    pool = draw(st.sampled_from(pools))
    flat = pool in ("mean", "means", "mean_negative", "sum")
    heads = ("none",) if before == "conv" else FLAT_HEADS if flat or last else FLAT_HEADS + MAP_HEADS
    head = draw(st.sampled_from(heads))
    betweens = ["none", "none", "identity", "dropout", "cast", "scale", "shift", "divide"]
    betweens += [] if last else ["batch_norm"]
    dtype = draw(st.sampled_from(("float32", "float32", "float32", "float16")))
    return {
        "opset": opset,
        "axes": axes,
        "last": last,
        "fixed": fixed,
        "batch": draw(st.sampled_from(("N", 2))),
        "before": before,
        "pool": pool,
        "flat": flat,
        "between": draw(st.lists(st.sampled_from(betweens), max_size=2)),
        "reshape": draw(st.sampled_from(("flatten", "reshape", "squeeze", "gather"))),
        "head": head,
        "groups": draw(st.sampled_from((1, 2))) if head == "conv_grouped" else 1,
        "gemm": draw(st.tuples(st.sampled_from((0, 1)), st.sampled_from((1.0, 0.5)), st.sampled_from((1.0, 2.0)))),
        "bias": draw(st.sampled_from(("row", "matrix", "scalar", "none"))),
        "ending": draw(st.lists(st.sampled_from(("Identity", "Cast", "scale", "shift", "minus")), max_size=2)),
        "squash": draw(st.sampled_from(("", "", "Softmax", "LogSoftmax", "Sigmoid"))),
        "tail": draw(st.lists(st.sampled_from(("Identity", "Cast")), max_size=1)),
        "dtype": dtype,
        "form": draw(st.sampled_from(forms_at(opset, dtype))),
        "named": draw(st.booleans()),
        "activation": draw(st.sampled_from(("Relu", "LeakyRelu", "Tanh", ""))),
        "seed": draw(st.integers(0, 1000)),
    }


def build(r: dict[str, Any]) -> Any:
    """A graph whose head reads a tensor called ``features``."""
    g = Graph(r["opset"], dtype=r["dtype"], named=r["named"], form=r["form"], seed=r["seed"])
    space = SPACES[r["axes"]]
    image = g.image([r["batch"], 3, *(space if r["fixed"] else [f"S{i}" for i in range(len(space))])])
    value = g.conv(image, 3, CHANNELS, axes=r["axes"])
    value = g.add(r["activation"] or "Identity", value)
    if r["last"]:
        value = g.add("Transpose", value, perm=[0, *range(2, r["axes"] + 2), 1])
    channels = CHANNELS
    if r["before"] == "conv":
        channels = CLASSES
        value = g.conv(value, CHANNELS, CLASSES, kernel=1, axes=r["axes"])
    value = g.add("Sigmoid", value, to="features") if r["before"] == "none" else g.add("Relu", value, to="features")
    value = _pool(g, r, value, space)
    for word in r["between"]:
        value = _between(g, r, value, word, channels)
    if r["head"] in MAP_HEADS:
        value = g.conv(value, CHANNELS, CLASSES, kernel=1, axes=r["axes"], groups=r["groups"])
        value = _flatten(g, r, value, CLASSES)
    else:
        value = value if r["flat"] else _flatten(g, r, value, channels)
        value = _flat_head(g, r, value, channels)
    for word in r["ending"]:
        value = _ending(g, value, word)
    value = (
        g.add(r["squash"], value, axis=1)
        if "oftmax" in r["squash"]
        else g.add(r["squash"], value)
        if r["squash"]
        else value
    )
    for word in r["tail"]:
        value = _ending(g, value, word)
    g.out(value, [r["batch"], classes_of(r)])
    return g.model()


def classes_of(r: dict[str, Any]) -> int:
    return CHANNELS if r["head"] == "none" and r["before"] == "none" else CLASSES


def _pool(g: Graph, r: dict[str, Any], value: str, space: tuple[int, ...]) -> str:
    first, count = (1 if r["last"] else 2), len(space)
    axes = list(range(first, first + count))
    match r["pool"]:
        case "global":
            return g.add("GlobalAveragePool", value)
        case "average":
            return g.add("AveragePool", value, kernel_shape=list(space))
        case "average_padded":
            include = r["seed"] % 2
            kernel = [n + 2 for n in space]
            return g.add("AveragePool", value, kernel_shape=kernel, pads=[1] * (2 * count), count_include_pad=include)
        case "mean":
            return g.reduce("ReduceMean", value, axes)
        case "mean_negative":
            return g.reduce("ReduceMean", value, [-n for n in range(1, count + 1)])
        case "mean_keep":
            return g.reduce("ReduceMean", value, axes, keep=1)
        case "means" | "means_keep":
            for axis in reversed(axes):
                value = g.reduce("ReduceMean", value, [axis], keep=int(r["pool"] == "means_keep"))
            return value
        case _:
            return g.reduce("ReduceSum", value, axes)


def _between(g: Graph, r: dict[str, Any], value: str, word: str, channels: int) -> str:
    ones = [] if r["flat"] or r["last"] else [1] * r["axes"]
    match word:
        case "none":
            return value
        case "batch_norm":
            return g.batch_norm(value, channels)
        case "scale":
            return g.add("Mul", g.const(g.normal(channels, *ones)), value)
        case "shift":
            return g.add("Add", value, g.const(g.normal(1, channels, *ones)))
        case "divide":
            return g.add("Div", value, g.const(np.full(1, 1.5)))
        case "cast":
            return _cast(g, value)
        case _:
            return g.add(word.capitalize(), value)


def _cast(g: Graph, value: str) -> str:
    """To float32 and back."""
    g.add("Cast", value, to=f"{value}_wide")
    g.nodes[-1].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    g.add("Cast", f"{value}_wide", to=f"{value}_back")
    g.nodes[-1].attribute.append(onnx.helper.make_attribute("to", g.type))
    return f"{value}_back"


def _flatten(g: Graph, r: dict[str, Any], value: str, channels: int) -> str:
    first = 1 if r["last"] else 2
    match r["reshape"]:
        case "flatten":
            return g.add("Flatten", value)
        case "reshape":
            return g.add("Reshape", value, g.ints(-1, channels))
        case "squeeze":
            return g.squeeze(value, list(range(first, first + r["axes"])))
        case _:
            for _ in range(r["axes"]):
                value = g.add("Gather", value, g.const(np.array(0), form="initializer", dtype=np.int64), axis=first)
            return value


def _flat_head(g: Graph, r: dict[str, Any], value: str, channels: int) -> str:
    across, alpha, beta = r["gemm"]
    weight = g.normal(CLASSES, channels)
    match r["head"]:
        case "none":
            return value
        case "gemm":
            held = g.const(weight if across else weight.T)
            shape = {"row": (CLASSES,), "matrix": (1, CLASSES), "scalar": (1,)}.get(r["bias"], (CLASSES,))
            bias = [g.const(g.normal(*shape))] if r["bias"] != "none" or g.opset < 11 else []
            return g.add("Gemm", value, held, *bias, transB=across, alpha=alpha, beta=beta)
        case "matmul":
            return g.add("MatMul", value, g.const(weight.T))
        case "matmul_add":
            sides = [g.add("MatMul", value, g.const(weight.T)), g.const(g.normal(CLASSES))]
            return g.add("Add", *(sides if across else reversed(sides)))
        case "left_matmul":
            upright = g.add("Transpose", value, perm=[1, 0])
            return g.add("Transpose", g.add("MatMul", g.const(weight), upright), perm=[1, 0])
        case _:
            value = g.add("Gemm", value, g.const(g.normal(channels, 7)), g.const(g.normal(7)))
            return g.add("Gemm", value, g.const(g.normal(7, CLASSES)), g.const(g.normal(CLASSES)))


def _ending(g: Graph, value: str, word: str) -> str:
    match word:
        case "scale":
            return g.add("Mul", value, g.const(np.array(0.5)))
        case "shift":
            return g.add("Add", value, g.const(np.array([0.25])))
        case "minus":
            return g.add("Sub", g.const(np.array([0.25])), value)
        case "Cast":
            return _cast(g, value)
        case _:
            return g.add(word, value)


def prove(recipe: dict[str, Any]) -> None:
    model = build(recipe)
    space = SPACES[recipe["axes"]] if recipe["fixed"] else [n + 2 for n in SPACES[recipe["axes"]]]
    limit = 1e-3 if recipe["dtype"] == "float32" else 2e-2
    out = assert_complete(model, images(2, 3, *space), limit=limit, squash=recipe["squash"])
    assert out.layer == "features"
    assert out.maps.shape == (2, classes_of(recipe), *space)


class TestRandomGraphs:
    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(recipe=recipes())
    def test_mean_of_the_map_plus_bias_is_the_score(self, recipe):
        prove(recipe)

    @pytest.mark.slow
    @settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(recipe=recipes())
    def test_mean_of_the_map_plus_bias_is_the_score_widely(self, recipe):
        prove(recipe)


def mapped(opset: int = 17, size: tuple[int | str, ...] = (8, 8), **options: Any) -> tuple[Graph, str]:
    """A graph begun, and its (N, 6, 8, 8) features."""
    g = Graph(opset, **options)
    image = g.image(["N", 3, *size])
    return g, g.add("Relu", g.conv(image, 3, CHANNELS, axes=len(size)), to="features")


def gemm(g: Graph, value: str, inside: int = CHANNELS) -> Any:
    scores = g.add(
        "Gemm", value, g.const(g.normal(inside, CLASSES)), g.const(g.normal(CLASSES)), name="fc", to="scores"
    )
    g.out(scores, ["N", CLASSES])
    return g.model()


def pooled(g: Graph, features: str) -> str:
    return g.add("Flatten", g.add("GlobalAveragePool", features))


def test_the_newest_opset_is_a_recent_one():
    """Else the tests above would silently look at old ones only."""
    assert onnx.defs.onnx_opset_version() - 3 <= NEWEST <= onnx.defs.onnx_opset_version()


class TestHowAHeadIsWritten:
    """Forms by name, so that none depends on what the random graphs happen to draw."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("across", [0, 1])
    def test_weights_are_found_wherever_they_hide(self, form, across):
        g, features = mapped(form=form)
        weight = g.normal(CLASSES, CHANNELS)
        held = g.const(weight if across else weight.T)
        bias = g.normal(CLASSES)
        attributes = {"transB": across, "alpha": 0.5, "beta": 3.0}
        g.out(g.add("Gemm", pooled(g, features), held, g.const(bias), **attributes), ["N", CLASSES])
        model = g.model()
        assert_complete(model, images(2, 3, 8, 8))
        head = tap_of(model).need_head()
        tolerance = 0.03 if form == "dequantized" else 1e-6
        np.testing.assert_allclose(head.weight, 0.5 * weight, atol=tolerance)
        np.testing.assert_allclose(head.bias, 3 * bias, atol=tolerance)

    @pytest.mark.parametrize("opset", [7, 10, 11, 13, 18, 21, NEWEST])
    def test_every_opset(self, opset):
        assert_complete(classifier(opset=opset), images(2, 3, 9, 7))

    @pytest.mark.parametrize("groups", [1, 2])
    def test_convolution_behind_the_pooling(self, groups):
        g, features = mapped()
        scores = g.conv(g.add("GlobalAveragePool", features), CHANNELS, CLASSES, kernel=1, groups=groups)
        g.out(g.add("Flatten", scores), ["N", CLASSES])
        out = assert_complete(g.model(), images(2, 3, 8, 8))
        assert out.layer == "features"
        assert out.head == "GlobalAveragePool -> Conv 1x1 -> Flatten"

    @pytest.mark.parametrize("axes", [1, 2, 3])
    def test_convolution_before_the_pooling_gives_a_map_for_each_class(self, axes):
        g, features = mapped(size=(7, 6, 5)[:axes])
        maps = g.add("Relu", g.conv(features, CHANNELS, CLASSES, kernel=1, axes=axes), to="class_maps")
        g.out(g.add("Softmax", pooled(g, maps), axis=1), ["N", CLASSES])
        model = g.model()
        out = assert_complete(model, images(2, 3, *(7, 6, 5)[:axes]), squash="Softmax")
        assert out.layer == "class_maps"
        assert tap_of(model).need_head().is_identity

    def test_scores_that_are_still_maps_of_one_pixel(self):
        g, features = mapped()
        scores = g.conv(g.add("GlobalAveragePool", features), CHANNELS, CLASSES, kernel=1)
        g.out(g.add("Softmax", scores, axis=1), ["N", CLASSES, 1, 1])
        assert assert_complete(g.model(), images(2, 3, 8, 8), squash="Softmax").scores.shape == (2, CLASSES)

    @pytest.mark.parametrize("form", ["initializer", "constant", "input"])
    def test_batch_normalisation_multiplication_and_addition_behind_the_pooling(self, form):
        g, features = mapped(form=form)
        value = g.batch_norm(g.add("GlobalAveragePool", features), CHANNELS)
        value = g.add("Mul", value, g.const(g.normal(1, CHANNELS, 1, 1)))
        value = g.add("Add", g.const(g.normal(CHANNELS, 1, 1)), value)
        assert_complete(gemm(g, g.add("Flatten", value)), images(2, 3, 8, 8))

    @pytest.mark.parametrize("keep", [0, 1])
    @pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
    @pytest.mark.parametrize("last", [False, True])
    def test_two_reductions_in_a_row(self, keep, op, last):
        g, value = mapped(size=(8, 6))
        if last:
            value = g.add("Transpose", value, perm=[0, 2, 3, 1], to="channels_last")
        for axis in (2, 1) if last else (3, 2):
            value = g.reduce(op, value, [axis], keep=keep)
        out = assert_complete(gemm(g, g.add("Flatten", value)), images(2, 3, 8, 6))
        assert out.layer == ("channels_last" if last else "features")
        assert out.maps.shape == (2, CLASSES, 8, 6)

    def test_a_sum_divided_by_the_number_of_positions(self):
        g, value = mapped()
        value = g.add("Div", g.reduce("ReduceSum", value, [2, 3]), g.const(np.array(64.0)))
        assert_complete(gemm(g, value), images(2, 3, 8, 8))

    @pytest.mark.parametrize("include", [0, 1])
    def test_average_pool_with_padding(self, include):
        g, value = mapped()
        value = g.add("AveragePool", value, kernel_shape=[10, 9], pads=[1, 0, 1, 1], count_include_pad=include)
        assert_complete(gemm(g, g.add("Flatten", value)), images(2, 3, 8, 8))

    @pytest.mark.parametrize("ending", ["", "Softmax", "LogSoftmax"])
    def test_scores_are_those_before_a_softmax(self, ending):
        model = classifier(ending=ending)
        out = assert_complete(model, images(2, 3, 8, 8), squash=ending)
        np.testing.assert_array_equal(out.scores, run_plainly(classifier(), images(2, 3, 8, 8))[0])
        assert out.scores_are == "logit"

    @pytest.mark.parametrize("size", [("H", "W"), (8, 8)])
    def test_average_pool_over_a_map_of_free_size(self, size):
        """What the layer behind it reads tells that only one window is left."""
        g, value = mapped(size=size)
        value = g.add("AveragePool", value, kernel_shape=[8, 8])
        assert_complete(gemm(g, g.add("Flatten", value)), images(2, 3, 8, 8))

    def test_an_average_over_part_of_the_map_ahead_of_the_pooling_is_part_of_the_network(self):
        g, value = mapped()
        value = g.add("AveragePool", value, kernel_shape=[2, 2], strides=[2, 2], to="smaller")
        out = assert_complete(gemm(g, pooled(g, value)), images(2, 3, 8, 8))
        assert out.layer == "smaller"
        assert out.maps.shape == (2, CLASSES, 4, 4)

    def test_a_map_made_flat_ahead_of_the_mean_is_shown_as_it_was(self):
        g, value = mapped(size=(8, 6))
        value = g.reduce("ReduceMean", g.add("Reshape", value, g.ints(0, CHANNELS, -1)), [2])
        out = assert_complete(gemm(g, value), images(2, 3, 8, 6))
        assert out.layer == "features"
        assert out.maps.shape == (2, CLASSES, 8, 6)

    def test_double_precision(self):
        g = Graph(dtype="float64")  # for which ONNX Runtime has no convolution on the CPU
        value = g.add("Tanh", g.image(["N", CHANNELS, 8, 8]), to="features")
        g.out(
            g.add("MatMul", g.reduce("ReduceMean", value, [2, 3]), g.const(g.normal(CHANNELS, CLASSES))), ["N", CLASSES]
        )
        out = assert_complete(g.model(), images(2, CHANNELS, 8, 8), limit=1e-6)
        assert out.maps.dtype == out.scores.dtype == np.float32

    def test_the_second_output_where_only_that_has_a_linear_head(self):
        g, features = mapped()
        g.out(g.add("Relu", g.add("Flatten", g.add("GlobalMaxPool", features))), ["N", CHANNELS])
        model = gemm(g, pooled(g, features))
        explained = camcore.explainer(model, device="cpu")
        np.testing.assert_array_equal(
            explained(images(2, 3, 8, 8)).scores, run_plainly(model, images(2, 3, 8, 8), ["scores"])[0]
        )


class TestQuantised:
    STEP = 1 / 32

    def model(self) -> tuple[Any, Any]:
        g, features = mapped()
        value = g.quantized(features, self.STEP)
        value = g.quantized(g.add("GlobalAveragePool", value), self.STEP, zero=-3)
        weight = g.normal(CHANNELS, CLASSES)
        value = g.add("Gemm", g.add("Flatten", value), g.const(weight), g.const(g.normal(CLASSES)))
        g.out(value, ["N", CLASSES])
        return g.model(), weight

    def test_scores_are_met_within_half_a_step_of_each_channel(self):
        model, weight = self.model()
        allowed = 0.5 * self.STEP * np.abs(weight).sum(axis=0)
        out = assert_complete(model, images(4, 3, 8, 8), slack=allowed)
        assert out.layer.startswith("dequantizelinear")
        np.testing.assert_allclose(tap_of(model).slack, allowed, rtol=1e-6)
        rebuilt = out.maps.mean(axis=(2, 3)) + tap_of(model).need_head().bias
        assert np.abs(rebuilt - out.scores).max() > 1e-3  # the rounding is there, so the allowance is what lets it pass

    def test_weights_of_eight_bits_are_not_rounded_further_by_onnx_runtime(self):
        """At level "extended" it would take MatMulNBits, which rounds the features too."""
        g, features = mapped(opset=10, form="dequantized")
        assert_complete(gemm(g, pooled(g, features)), images(2, 3, 8, 8), limit=1e-5)


def refused(build_head: Callable[[Graph, str], Any], **options: Any) -> str:
    """The text with which a head is refused."""
    g, features = mapped(**options)
    with pytest.raises(HeadNotFound) as caught:
        camcore.explainer(build_head(g, features), device="cpu", method="cam")(images(1, 3, 8, 8))
    return str(caught.value)


class TestRefusal:
    def test_flattened_map(self):
        text = refused(lambda g, v: gemm(g, g.add("Flatten", v), CHANNELS * 64))
        assert "'features' (6x8x8) is flattened, so that every position has weights of its own" in text
        assert "way back" in text
        assert "CAM needs a global average pooling" in text

    def test_flattened_linear_map(self):
        def head(g: Graph, v: str) -> Any:
            return gemm(g, g.add("Flatten", g.conv(v, CHANNELS, CHANNELS)), CHANNELS * 64)

        assert "is flattened, so that every position has weights of its own" in refused(head)

    def test_two_layers_with_an_activation_between(self):
        def head(g: Graph, v: str) -> Any:
            hidden = g.add("Gemm", pooled(g, v), g.const(g.normal(CHANNELS, 7)), g.const(g.normal(7)))
            return gemm(g, g.add("Relu", hidden, name="between"), 7)

        text = refused(head)
        assert "Relu 'between' stands in front of the scores, and it is not linear" in text
        assert "cam is not possible at 'features'" in text
        assert "Methods that work here: " in text
        assert "activationmap" in text

    @pytest.mark.parametrize("op", ["GlobalMaxPool", "ReduceMax", "MaxPool"])
    def test_maximum(self, op):
        def head(g: Graph, v: str) -> Any:
            size = {"kernel_shape": [8, 8]} if op == "MaxPool" else {"axes": [2, 3]} if op == "ReduceMax" else {}
            return gemm(g, g.add("Flatten", g.add(op, v, name="largest", **size)))

        assert f"{op} 'largest' takes the maximum over the map, not the mean" in refused(head)

    def test_mean_and_maximum_side_by_side(self):
        def head(g: Graph, v: str) -> Any:
            both = [g.add("GlobalAveragePool", v), g.add("GlobalMaxPool", v)]
            return gemm(g, g.add("Flatten", g.add("Concat", *both, axis=1, name="both")), 2 * CHANNELS)

        assert "Concat 'both' joins several tensors in front of the scores" in refused(head)

    def test_layer_normalisation(self):
        def head(g: Graph, v: str) -> Any:
            gain = [g.const(g.normal(CHANNELS)), g.const(g.normal(CHANNELS))]
            return gemm(g, g.add("LayerNormalization", pooled(g, v), *gain, name="norm"))

        assert "normalises over the channels" in refused(head)

    def test_average_over_parts_of_the_map(self):
        def head(g: Graph, v: str) -> Any:
            part = g.add("AveragePool", v, kernel_shape=[4, 4], strides=[4, 4], name="part")
            return gemm(g, g.add("Flatten", part), CHANNELS * 4)

        text = refused(head)
        assert "(6x2x2) is flattened, so that every position has weights of its own" in text
        assert "<- Gemm <- Flatten" in text

    @pytest.mark.parametrize(
        ("opset", "kernel", "more"),
        [
            (17, [7, 8], {}),
            (17, [5, 5], {"strides": [8, 8]}),
            (19, [2, 2], {"dilations": [7, 7]}),
            (19, [8, 8], {"dilations": [2, 2], "pads": [0, 0, 7, 7]}),
        ],
    )
    def test_one_window_that_sees_only_a_part_of_the_map(self, opset, kernel, more):
        def head(g: Graph, v: str) -> Any:
            part = g.add("AveragePool", v, kernel_shape=kernel, name="part", **({"strides": [8, 8]} | more))
            return gemm(g, g.add("Flatten", part))

        text = refused(head, opset=opset)
        assert f"averages windows of {kernel[0]}x{kernel[1]} of a map of 8x8, not the whole map" in text

    def test_mean_over_the_batch(self):
        def head(g: Graph, v: str) -> Any:
            mean = g.reduce("ReduceMean", g.reduce("ReduceMean", v, [2, 3]), [0], keep=1)
            return gemm(g, mean)

        assert "averages over the batch or the channels (axes [0])" in refused(head)

    @pytest.mark.parametrize("axes", [None, []])
    def test_mean_over_everything(self, axes):
        def head(g: Graph, v: str) -> Any:
            given = [] if axes is None else [g.ints(*axes)]
            return gemm(g, g.add("Reshape", g.add("ReduceMean", v, *given, name="all"), g.ints(1, 1)), 1)

        assert "ReduceMean 'all' averages over axes that are not known, or over all" in refused(head, opset=18)

    def test_weights_that_depend_on_the_image(self):
        def head(g: Graph, v: str) -> Any:
            value = pooled(g, v)
            other = g.add("Transpose", g.add("Tanh", value), perm=[1, 0])
            g.out(g.add("MatMul", value, other, name="attend"), ["N", "N"])
            return g.model()

        assert "MatMul 'attend' joins two tensors that depend on the image" in refused(head)

    def test_dense_weights_that_depend_on_the_image(self):
        def head(g: Graph, v: str) -> Any:
            value = pooled(g, v)
            g.out(g.add("Gemm", value, g.add("Tanh", value), transB=1, name="attend"), ["N", "N"])
            return g.model()

        assert "Gemm 'attend' has no constant weights: both its operands depend on the image" in refused(head)

    @pytest.mark.parametrize("op", ["Gemm", "MatMul"])
    def test_weights_that_are_no_matrix(self, op):
        def head(g: Graph, v: str) -> Any:
            g.out(g.add(op, pooled(g, v), g.const(g.normal(CHANNELS)), name="odd"), None)
            return g.model()

        assert f"{op} 'odd' multiplies with a tensor of 1 axes" in refused(head)

    def test_large_kernel_behind_the_pooling(self):
        def head(g: Graph, v: str) -> Any:
            value = g.conv(g.add("GlobalAveragePool", v), CHANNELS, CLASSES, kernel=3)
            g.out(g.add("Flatten", value), ["N", CLASSES])
            return g.model()

        assert "has a kernel of 3x3; behind a pooling only 1x1 is linear" in refused(head)

    def test_product_of_integers(self):
        def head(g: Graph, v: str) -> Any:
            step, zero = g.const(np.array(0.1)), g.const(np.array(0), dtype=np.int8)
            whole = g.add("QuantizeLinear", pooled(g, v), step, zero)
            weight = g.const(g.normal(CHANNELS, CLASSES) * 50, dtype=np.int8)
            whole = g.add("MatMulInteger", whole, weight, name="whole")
            step = g.const(np.array(0.01))
            g.nodes.append(onnx.helper.make_node("Cast", [whole], ["floats"], to=1))
            g.out(g.add("Mul", "floats", step), ["N", CLASSES])
            return g.model()

        assert "MatMulInteger 'whole' works on integers" in refused(head)

    def test_softmax_in_the_middle(self):
        def head(g: Graph, v: str) -> Any:
            return gemm(g, g.add("Softmax", pooled(g, v), axis=1))

        assert "Softmax stands between the pooling and the scores, so the head is not linear" in refused(head)

    def test_a_part_of_the_pooled_map(self):
        def head(g: Graph, v: str) -> Any:
            value = g.add("Gather", v, g.const(np.array(3), dtype=np.int64), axis=2, name="row")
            return gemm(g, g.reduce("ReduceMean", value, [2]))

        with pytest.raises(InputError, match="have 1 spatial axes, the images 2, so they cannot be laid on them"):
            camcore.explainer(head(*mapped()), device="cpu")(images(1, 3, 8, 8))

    def test_gather_of_one_position_in_place_of_a_pooling(self):
        def head(g: Graph, v: str) -> Any:
            zero = g.const(np.array(3), dtype=np.int64)
            return gemm(g, g.add("Gather", g.add("Gather", v, zero, axis=2), zero, axis=2, name="one"))

        assert "Gather 'one' takes only a part of its input" in refused(head)

    def test_a_loop_of_unknown_operators_is_named(self):
        def head(g: Graph, v: str) -> Any:
            return gemm(g, g.add("HardSigmoid", pooled(g, v), name="gate"))

        assert "HardSigmoid 'gate' stands in front of the scores" in refused(head)

    def test_the_last_map_can_still_be_shown_without_a_head(self):
        g, features = mapped()
        model = gemm(g, g.add("Flatten", features), CHANNELS * 64)
        out = camcore.explainer(model, method="activationmap", device="cpu")(images(2, 3, 8, 8))
        assert out.layer == "features"
        assert out.maps.shape == (2, 1, 8, 8)

    def test_a_weight_behind_an_if_that_reads_the_image_is_not_constant(self):
        def head(g: Graph, v: str) -> Any:
            value = pooled(g, v)
            body = onnx.helper.make_graph(
                [onnx.helper.make_node("Tanh", [value], ["gated"])],
                "body",
                [],
                [onnx.helper.make_tensor_value_info("gated", 1, None)],
            )
            yes = g.const(np.array(True), dtype=bool)
            gate = g.add("If", yes, then_branch=body, else_branch=body, name="gate")
            return gemm(g, g.add("Mul", value, gate, name="gated_by"))

        assert "Mul 'gated_by' joins two tensors that depend on the image" in refused(head)


def test_a_model_that_returns_a_map_has_no_scores():
    g, features = mapped()
    g.out(features, ["N", CHANNELS, 8, 8])
    with pytest.raises(
        InputError, match=r"no output with class scores \(N, K\); it gives 'features' float \[N, 6, 8, 8\]"
    ):
        _ = OnnxBackend(g.model(), device="cpu").found


def test_shapes_that_a_model_does_not_state_are_found():
    model = classifier()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    pixels = pixels_for(model)
    assert_complete(model, pixels)


def test_a_head_made_by_hand_matches():
    g, features = mapped()
    model = finish(g, features, CHANNELS, CLASSES)
    weight, bias = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer[-2:])
    head = tap_of(model).need_head()
    np.testing.assert_array_equal(head.weight, weight.T)
    np.testing.assert_array_equal(head.bias, bias)
