"""Two models beside each other: the numbers against a naive rewriting, and each way to differ is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from camcore_onnx.checking.comparing import LIMITS, Comparison, Gauge, Side, Worst, compare, pair, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from camcore.errors import InputError

BATCHES = [np.zeros((1, 3, 4, 4)), np.ones((3, 3, 4, 4))]


def sides(a: Any, b: Any) -> tuple[Side, Side]:
    """Two models that give the same for each image, whatever it is."""
    return tuple(  # type: ignore[return-value]
        Side(name, lambda images, made=made: {k: np.stack([v] * len(images)) for k, v in made.items()})
        for name, made in (("one", a), ("two", b))
    )


def run(a: Any, b: Any, **limits: float) -> Comparison:
    return compare(*sides(a, b), BATCHES, **limits)


class TestCompare:
    def test_the_same(self):
        found = run({"scores": np.array([1.0, 2.0])}, {"scores": np.array([1.0, 2.0])})
        (scores,) = found.outputs
        assert found.passed
        assert found.inputs == 4
        assert scores.identical
        assert (scores.absolute, scores.relative, scores.mean, scores.worst) == (0, 0, 0, None)
        assert (found.top.output, found.top.agree, found.top.total, found.top.others) == ("scores", 4, 4, [])

    def test_how_far_and_where(self):
        """Of three images that differ by 0, 0.5 and 0.25 the second, at (1, 0)."""
        a = np.array([[[1.0, 2.0], [4.0, 8.0]]] * 3)
        b = a.copy()
        b[1, 1, 0] += 0.5
        b[2, 0, 1] -= 0.25
        outputs = iter([(a[:1], b[:1]), (a[1:], b[1:])])
        found = Comparison()
        gauge = Gauge("maps", "maps", (1e-3, 0.0))
        for start, (x, y) in zip((0, 1), outputs, strict=True):
            gauge.add(x, y, start, len(x))
        found.outputs = [gauge.found]
        assert gauge.found.worst == Worst(1, (1, 0), 4.0, 4.5)
        assert gauge.found.absolute == 0.5
        assert gauge.found.relative == 0.5 / 8
        assert gauge.found.mean == pytest.approx(0.75 / 12)
        assert not found.passed
        assert found.worst == 0.5 / 8

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.data(), array_shapes(min_dims=2, max_dims=4, max_side=4))
    def test_a_naive_rewriting(self, data, shape):
        numbers = st.floats(-1e3, 1e3, width=32)
        a, b = (data.draw(arrays(np.float32, shape, elements=numbers)) for _ in range(2))
        rtol, atol = data.draw(st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.0, 100.0), (1.5, 10.0)]))
        gauge = Gauge("x", "x", (rtol, atol))
        gauge.add(a, b, 0, len(a))
        absolute = worst = total = 0.0
        passed = True
        for one, other in zip(a.astype(float), b.astype(float), strict=True):
            largest = abs(one).max()
            for p, q in zip(one.flat, other.flat, strict=True):
                absolute = max(absolute, abs(p - q))
                if p != q:
                    worst = max(worst, abs(p - q) / largest if largest else np.inf)
                total += abs(p - q)
                passed = passed and abs(p - q) <= max(atol, rtol * largest)
        assert gauge.found.absolute == absolute
        assert gauge.found.relative == pytest.approx(worst)
        assert gauge.found.mean == pytest.approx(total / a.size)
        assert gauge.found.passed == passed

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(arrays(np.float32, (6, 3), elements=st.floats(-10, 10, width=32)), st.integers(1, 6))
    def test_how_they_are_batched_does_not_matter(self, a, size):
        b = a + np.float32(0.5) * np.sign(a)
        whole, parts = (Gauge("x", "x", (1e-2, 1e-2)) for _ in range(2))
        whole.add(a, b, 0, 6)
        for start in range(0, 6, size):
            parts.add(a[start : start + size], b[start : start + size], start, len(a[start : start + size]))
        parts.found.mean = whole.found.mean = round(whole.found.mean, 6)
        assert parts.found == whole.found

    def test_no_image_hides_behind_a_brighter_one(self):
        gauge = Gauge("x", "x", (1e-2, 0.0))
        gauge.add(np.array([[1.0], [1000.0]]), np.array([[1.5], [1000.0]]), 0, 2)
        assert not gauge.found.passed
        assert gauge.found.worst == Worst(0, (0,), 1.0, 1.5)

    def test_either_limit_is_enough(self):
        a, b = {"x": np.array([1e-9, 100.0])}, {"x": np.array([2e-9, 100.0])}
        assert run(a, b, rtol=1e-4, atol=0.0).passed
        assert run({"x": np.array([1e-9])}, {"x": np.array([2e-9])}, rtol=0.0, atol=1e-8).passed
        assert not run({"x": np.array([1e-9])}, {"x": np.array([2e-9])}, rtol=1e-4, atol=0.0).passed

    def test_the_limits_where_none_are_given(self):
        a = {"x": np.array([1.0, 100.0])}
        assert LIMITS["float32"] == (1e-4, 1e-6)
        assert run(a, {"x": np.array([1.009, 100.0])}).passed
        assert not run(a, {"x": np.array([1.011, 100.0])}).passed


class TestOddOutputs:
    @pytest.mark.parametrize(
        ("a", "b", "passed"),
        [
            ([np.nan, 1.0], [np.nan, 1.0], True),
            ([np.inf, 1.0], [np.inf, 1.0], True),
            ([np.nan, 1.0], [1.0, 1.0], False),
            ([1.0, 1.0], [np.nan, 1.0], False),
            ([np.inf, 1.0], [-np.inf, 1.0], False),
            ([np.inf, 1.0], [1.0, 1.0], False),
            ([0.0, 1.0], [-0.0, 1.0], True),
        ],
    )
    def test_what_is_not_finite(self, a, b, passed):
        (found,) = run({"x": np.array(a)}, {"x": np.array(b)}, rtol=0.9).outputs
        assert found.passed == passed
        assert found.absolute == (0 if passed else np.inf)

    def test_shapes(self):
        (found,) = run({"x": np.zeros((2, 3))}, {"x": np.zeros((3, 2))}).outputs
        assert not found.passed
        assert found.note == "has the shape 1x2x3 in A and 1x3x2 in B"

    def test_types(self):
        (found,) = run({"x": np.float32([1, 2])}, {"x": np.float16([1, 2])}).outputs
        assert found.passed
        assert found.types == ("float32", "float16")

    @pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
    def test_whole_numbers_are_equal_or_not(self, dtype):
        a = np.array([0, 1, 1], dtype)
        assert run({"x": a}, {"x": a}).passed
        (found,) = run({"x": a}, {"x": np.array([0, 1, 0], dtype)}, rtol=1.0, atol=5.0).outputs
        assert not found.passed
        assert found.worst == Worst(0, (2,), 1.0, 0.0)

    def test_texts(self):
        a = np.array(["cat", "dog"], object)
        assert run({"x": a}, {"x": a}).passed
        (found,) = run({"x": a}, {"x": a[::-1]}).outputs
        assert not found.passed
        assert found.note == "is of the type object, and its values differ"

    def test_what_is_no_tensor(self):
        a = Side("one", lambda images: {"x": [{0: 0.5}]})
        (found,) = compare(a, a, BATCHES).outputs
        assert (found.note, found.passed, found.identical) == ("is no tensor and is not compared", True, False)
        b = Side("two", lambda images: {"x": np.zeros(1)})
        assert not compare(a, b, BATCHES).passed

    def test_one_that_does_not_go_with_the_batch(self):
        weight = np.arange(10.0).reshape(5, 2)
        a, b = Side("a", lambda images: {"w": weight}), Side("b", lambda images: {"w": weight + (weight == 7)})
        (found,) = compare(a, b, [np.zeros((3, 1))]).outputs
        assert found.shape == (5, 2)
        assert found.worst == Worst(0, (3, 1), 7.0, 8.0)

    @pytest.mark.parametrize("shape", [(0,), (0, 3)])
    def test_empty(self, shape):
        assert run({"x": np.zeros(shape)}, {"x": np.zeros(shape)}).passed

    def test_a_single_number(self):
        a, b = Side("a", lambda images: {"x": np.array(1.0)}), Side("b", lambda images: {"x": np.array(2.0)})
        (found,) = compare(a, b, BATCHES).outputs
        assert found.worst == Worst(0, (), 1.0, 2.0)


class TestPairs:
    def test_by_name(self):
        a, b = {"p": np.zeros(2), "q": np.ones(2)}, {"q": np.ones(2), "p": np.zeros(2)}
        assert pair(a, b) == ([("p", "p"), ("q", "q")], [])
        assert run(a, b).passed

    def test_by_position(self):
        found = run({"scores": np.zeros(2)}, {"logits": np.zeros(2), "cam": np.zeros((2, 2))})
        (scores,) = found.outputs
        assert (scores.name, scores.other, scores.by_position) == ("scores", "logits", True)
        assert found.extra == ["cam"]
        assert found.passed

    def test_a_name_is_believed_before_a_position(self):
        a, b = {"p": np.zeros(2), "q": np.zeros(2)}, {"r": np.zeros(2), "p": np.zeros(2)}
        assert pair(a, b) == ([("p", "p"), ("q", "r")], [])

    def test_shapes_that_do_not_agree_are_no_pair(self):
        found = run({"scores": np.zeros(2)}, {"logits": np.zeros(3)})
        (scores,) = found.outputs
        assert not found.passed
        assert (scores.other, scores.note) == ("", "is not among the outputs of B")
        assert found.extra == ["logits"]

    def test_one_that_is_missing(self):
        found = run({"p": np.zeros(2), "q": np.zeros(2)}, {"p": np.zeros(2)})
        assert [d.passed for d in found.outputs] == [True, False]


class TestTop:
    def test_others(self):
        a = Side("a", lambda images: {"x": np.eye(4, dtype=np.float32)})
        b = Side("b", lambda images: {"x": np.eye(4, dtype=np.float32)[[0, 2, 1, 3]]})
        top = compare(a, b, [np.zeros((4, 1)), np.zeros((4, 1))]).top
        assert (top.agree, top.total) == (4, 8)
        assert top.others == [(1, 1, 2), (2, 2, 1), (5, 1, 2), (6, 2, 1)]

    def test_the_scores_are_the_first_output_of_rows(self):
        made = {
            "maps": np.zeros((5, 2, 2), np.float32),
            "one": np.zeros(1, np.float32),
            "probs": np.zeros((5, 1, 1), np.float32),
        }
        assert run(made, made).top.output == "probs"

    def test_none(self):
        made = {"maps": np.zeros((5, 2, 2), np.float32)}
        assert run(made, made).top.total == 0


class TestErrors:
    def test_a_model_that_cannot_run(self):
        def fail(images: Any) -> Any:
            raise RuntimeError("Got invalid dimensions\nfor input")

        good = Side("good.onnx", lambda images: {})
        with pytest.raises(
            InputError, match=r"bad.onnx cannot run images of shape \(1, 3, 4, 4\): Got invalid dimensions for input"
        ):
            compare(good, Side("bad.onnx", fail), BATCHES)


class TestRelative:
    def test_the_largest_difference_by_the_largest_value(self):
        assert relative(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(0.2)
