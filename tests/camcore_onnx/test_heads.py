"""Heads of all kinds against plain ONNX Runtime: the mean of each class's map plus the bias is the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_graphs import FORMS, Graph, classifier, finish, forms_at, images, pixels_for, run_plainly

import camcore
from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Tap
from camcore.scores import softmax
from camcore_onnx import OnnxBackend

NEWEST = 26  # of the official opsets that the oldest supported ONNX Runtime reads
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
        scale = 1.0 if squash else np.abs(expected).max()
        assert np.all(np.abs(shown - expected) <= limit * scale + slack)
    assert np.all(np.abs(rebuilt - out.scores) <= limit * np.abs(out.scores).max() + slack)
    return out


def _squashed(scores: Any, kind: str) -> Any:
    if kind == "Sigmoid":
        return 1 / (1 + np.exp(-scores))
    probabilities = softmax(scores) if kind else scores
    return np.log(probabilities) if kind == "LogSoftmax" else probabilities


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
    value = g.add(r["squash"], value, axis=1) if "oftmax" in r["squash"] else g.add(r["squash"], value) if r["squash"] else value
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
