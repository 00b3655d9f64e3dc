"""Slopes of targets over the scores as nodes, against those of the core in float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from camcore_onnx.constants import Constants
from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.seeds import SLOPES, Seeds, best_classes, chosen_classes, slopes
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_graphs import Graph, newest_opset

from camcore import InputError
from camcore.targets import target

Floats = NDArray[np.floating[Any]]

LIMIT = 1e-5
LEAST = 1e-37  # float32 has no smaller number of full precision
OPSETS = (9, 10, 11, 13, 17, 18)
TARGETS = (*SLOPES, "difference:0")


class Site:
    """A graph of scores and classes, to write into; with free or fixed lengths."""

    def __init__(self, scores: Floats, classes: NDArray[Any], opset: int, *, free: bool = True) -> None:
        g = Graph(opset, dtype=scores.dtype.name)
        g.out(g.add("Identity", g.image([None, scores.shape[1]], "scores")), [None, scores.shape[1]])
        self.loaded = load(g.model())
        self.graph = self.loaded.model.graph
        rows = (None, scores.shape[1]) if free else scores.shape
        there = (None, None if free and classes.shape[1] > 1 else classes.shape[1])
        value = ir.Value(name="classes", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([None] * 2))
        self.graph.inputs.append(value)
        facts = Facts(Constants(self.loaded), {self.graph.inputs[0]: rows}, {})
        self.pen = Pen(self.graph, facts)
        self.scores = self.pen.read(self.graph.inputs[0])
        self.classes = Tensor(self.pen, value, ir.DataType.INT64, there)
        self.feed = {"scores": scores, "classes": classes.astype(np.int64)}

    def run(self, tensor: Tensor) -> NDArray[Any]:
        self.graph.outputs.append(tensor.value)
        session = make_session(serialize(self.loaded.model), device="cpu", threads=1)
        used = {i.name for i in session.get_inputs()}
        found: NDArray[Any] = session.run([tensor.value.name], {n: a for n, a in self.feed.items() if n in used})[0]
        return found


def by_nodes(
    name: str, scores: Floats, classes: NDArray[Any], *, alone: bool = False, opset: int = 17, free: bool = True
) -> Floats:
    site = Site(scores, classes[:, None], opset, free=free)
    return site.run(slopes(Seeds(site.scores, site.classes, alone=alone), name))


def expected(name: str, scores: Floats, classes: NDArray[Any], *, alone: bool = False) -> Floats:
    return target(name).aim(scores, classes[:, None].astype(np.int64), alone=alone).slopes()[:, 0]


def agree(name: str, scores: Floats, classes: NDArray[Any], **how: Any) -> None:
    """Row by row, for one row may be saturated and another not."""
    found = by_nodes(name, scores, classes, **how)
    wanted = expected(name, scores, classes, alone=how.get("alone", False))
    assert found.shape == wanted.shape
    assert found.dtype == scores.dtype
    for row, other in zip(found, wanted, strict=True):
        assert np.abs(row - other).max() <= LIMIT * np.abs(other).max() + LEAST, (row, other)


def random_case(rows: int, width: int, seed: int = 0) -> tuple[Floats, NDArray[Any]]:
    generator = np.random.default_rng(seed)
    scores = (4 * generator.standard_normal((rows, width))).astype(np.float32)
    return scores, generator.integers(0, width, rows)


@pytest.mark.parametrize("opset", sorted({*OPSETS, newest_opset()}))
@pytest.mark.parametrize("name", TARGETS)
class TestOpsets:
    def test_random_scores(self, name: str, opset: int) -> None:
        agree(name, *random_case(5, 7), opset=opset)

    def test_each_class_alone(self, name: str, opset: int) -> None:
        agree(name, *random_case(5, 7, seed=1), alone=True, opset=opset)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", TARGETS)
class TestScores:
    def test_a_thousand_classes(self, name: str, alone: bool) -> None:
        agree(name, *random_case(3, 1000), alone=alone)

    def test_fixed_lengths_and_double_precision(self, name: str, alone: bool) -> None:
        scores, classes = random_case(4, 6, seed=2)
        agree(name, scores, classes, alone=alone, free=False)
        agree(name, scores.astype(np.float64), classes, alone=alone)

    @pytest.mark.parametrize("size", [20, 50, 80, 1000])
    def test_saturated(self, name: str, alone: bool, size: float) -> None:
        """The class explained towers above the others, or they above it; and one of two that do."""
        scores = np.array([[size, 0, 1, 2], [-size, 0, 1, 2], [size, size, 0, 1], [size, -size, 0, 3]], np.float32)
        for c in range(4):
            agree(name, scores, np.full(4, c), alone=alone)

    def test_ties(self, name: str, alone: bool) -> None:
        """The first of equal numbers counts, as for the core."""
        scores = np.array([[0, 0, 0, 0, 0], [1, 2, 2, 1, 1], [3, 1, 5, 3, 1], [-1, -1, -2, 0, 0]], np.float32)
        for c in range(5):
            agree(name, scores, np.full(4, c), alone=alone)

    def test_few_classes(self, name: str, alone: bool) -> None:
        for width in (2, 3):
            for c in range(width):
                scores, _ = random_case(6, width, seed=3)
                agree(name, scores, np.full(6, c), alone=alone)


@pytest.mark.parametrize("name", [n for n in TARGETS if n != "difference"])
def test_one_class_has_a_sigmoid(name: str) -> None:
    scores = np.array([[0.5], [-3], [50], [-50], [0]], np.float32)
    agree(name, scores, np.zeros(5, np.int64))


def many(examples: int) -> Any:
    def decorate(function: Any) -> Any:
        # Multiples of 1/64 have exact differences, so that the nearest classes are the same in both precisions.
        numbers = st.integers(-50 * 64, 50 * 64).map(lambda n: n / 64) | st.sampled_from([-1000.0, 0.0, 1000.0])
        width = st.shared(st.integers(2, 9), key="width")
        rows = width.flatmap(lambda k: st.lists(numbers, min_size=k, max_size=k))
        drawn = given(
            name=st.sampled_from(TARGETS),
            rows=st.lists(rows, min_size=2, max_size=4),
            c=width.flatmap(lambda k: st.integers(0, k - 1)),
            alone=st.booleans(),
        )
        return settings(max_examples=examples, deadline=None, derandomize=True)(drawn(function))

    return decorate


def check(name: str, rows: list[list[float]], c: int, alone: bool) -> None:
    agree(name, np.array(rows, np.float32), np.full(len(rows), c), alone=alone)


@many(80)
def test_any_scores(name: str, rows: list[list[float]], c: int, alone: bool) -> None:
    check(name, rows, c, alone)


@pytest.mark.slow
@many(5000)
def test_any_scores_wide(name: str, rows: list[list[float]], c: int, alone: bool) -> None:
    check(name, rows, c, alone)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_a_class_that_is_not_there_has_no_slopes(name: str, alone: bool) -> None:
    scores, _ = random_case(2, 5)
    found = by_nodes(name, scores, np.array([5, 2]), alone=alone)
    assert not found[0].any()
    assert found[1].any()


class TestErrors:
    def test_a_target_without_nodes(self) -> None:
        site = Site(*random_case(1, 4)[:1], np.zeros((1, 1)), 17)
        text = "target 'probabilty' has no form as nodes of a graph. Did you mean 'probability'"
        with pytest.raises(InputError, match=re.escape(text)):
            slopes(Seeds(site.scores, site.classes, alone=False), "probabilty")

    def test_another_class_that_is_not_there(self) -> None:
        site = Site(*random_case(1, 4)[:1], np.zeros((1, 1)), 17)
        with pytest.raises(InputError, match=r"target difference:4: the model has 4 classes, 0 to 3"):
            slopes(Seeds(site.scores, site.classes, alone=False), "difference:4")

    def test_no_other_class(self) -> None:
        site = Site(np.zeros((1, 1), np.float32), np.zeros((1, 1)), 17)
        with pytest.raises(InputError, match="target difference: the model has one class and no other to compare with"):
            slopes(Seeds(site.scores, site.classes, alone=False), "difference")


class TestClasses:
    @pytest.mark.parametrize("opset", OPSETS)
    def test_minus_one_is_the_best(self, opset: int) -> None:
        scores = np.array([[1, 3, 3, 0], [5, 1, 5, 5], [0, 0, 0, 0], [-1, -2, -1e30, 4]], np.float32)
        site = Site(scores, np.array([[-1], [2], [-1], [-1]]), opset)
        found = site.run(chosen_classes(site.pen, site.scores, site.classes))
        np.testing.assert_array_equal(found, [[1], [2], [0], [3]])

    @pytest.mark.parametrize("free", [True, False])
    @pytest.mark.parametrize("opset", OPSETS)
    def test_minus_one_in_column_t_is_the_class_of_rank_t(self, opset: int, free: bool) -> None:
        scores = np.array([[1, 3, 3, 0], [5, 1, 5, 5]], np.float32)
        site = Site(scores, np.array([[-1, -1, 3], [1, -1, -1]]), opset, free=free)
        found = site.run(chosen_classes(site.pen, site.scores, site.classes))
        np.testing.assert_array_equal(found, [[1, 2, 3], [1, 2, 3]])

    def test_all_of_them(self) -> None:
        scores, _ = random_case(3, 6)
        site = Site(scores, np.full((3, 6), -1), 17)
        found = site.run(chosen_classes(site.pen, site.scores, site.classes))
        np.testing.assert_array_equal(found, np.argsort(-scores, axis=1))

    def test_more_columns_than_classes(self) -> None:
        scores = np.array([[1, 3], [5, 1]], np.float32)
        site = Site(scores, np.array([[-1, -1, 0], [1, -1, -1]]), 17)
        found = site.run(chosen_classes(site.pen, site.scores, site.classes))
        np.testing.assert_array_equal(found, [[1, 0, 0], [1, 1, 1]])

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("opset", [9, 10, 17])
    @pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1)])
    def test_the_best_few_of_scores_of_any_rank(self, shape: tuple[int, ...], opset: int, dtype: str) -> None:
        g = Graph(opset, dtype=dtype)
        g.out(g.add("Identity", g.image(["N", *shape[1:]], "scores")), ["N", *shape[1:]])
        loaded = load(g.model())
        graph = loaded.model.graph
        graph.outputs.append(best_classes(graph, graph.inputs[0], 2))
        scores = np.array([[1, 3, 3, 0, 7], [5, 1, 5, 5, 0]], dtype).reshape(shape)
        found = make_session(serialize(loaded.model), device="cpu").run(None, {"scores": scores})[-1]
        np.testing.assert_array_equal(found, [[4, 1], [0, 2]])
