"""Targets: values from their definitions, slopes and bends against differences, at scores of every size."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import TARGETS, InputError, Target, difference, finer, target
from camcore.targets import Aim

NAMES = ["logit", "probability", "log-probability", "rest", "finer", "difference", "difference:1"]
BENT = ["probability", "log-probability", "rest"]
SEEDS = st.integers(0, 2**32 - 1)
EACH = pytest.mark.parametrize("name", NAMES)
ALONE = pytest.mark.parametrize("alone", [False, True])


def squares(scores: np.ndarray) -> np.ndarray:
    return (scores**2).sum(axis=1) + scores[:, 0] * scores[:, -1]


def case(seed: int, k: int = 5, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return spread * rng.standard_normal((3, k)), rng.integers(0, k, (3, 2))


def by_definition(name: str, s: list[float], c: int, alone: bool) -> float:
    """One number, from the words."""
    e = [math.exp(x) for x in s]
    p = e[c] / (1 + e[c]) if alone or len(s) == 1 else e[c] / sum(e)
    others = sorted((abs(x - s[c]), j) for j, x in enumerate(s) if j != c)
    rivals = [s[j] for _, j in others[:3]]
    return {
        "logit": lambda: s[c],
        "probability": lambda: p,
        "log-probability": lambda: math.log(p),
        "rest": lambda: s[c] + math.log(p),
        "finer": lambda: s[c] - 0.6 * (sum(rivals) / len(rivals) if rivals else 0),
        "difference": lambda: s[c] - max(x for j, x in enumerate(s) if j != c),
        "difference:1": lambda: s[c] - s[1],
    }[name]()


def slopes_by_differences(aim: Aim, step: float = 1e-6) -> np.ndarray:
    """(N, T, K), with the classes to compare with as they were chosen."""
    out = np.empty((*aim.classes.shape, aim.scores.shape[1]))
    for j in range(aim.scores.shape[1]):
        shift = step * np.eye(aim.scores.shape[1])[j]
        out[:, :, j] = (aim.moved(aim.scores + shift).values() - aim.moved(aim.scores - shift).values()) / (2 * step)
    return out


class TestValues:
    @EACH
    @ALONE
    @settings(deadline=None, max_examples=30)
    @given(seed=SEEDS, k=st.integers(2, 6))
    def test_they_are_what_the_words_say(self, name: str, alone: bool, seed: int, k: int) -> None:
        scores, classes = case(seed, k)
        found = target(name).aim(scores, classes, alone=alone).values()
        for n, t in np.ndindex(3, 2):
            expected = by_definition(name, scores[n].tolist(), int(classes[n, t]), alone)
            assert found[n, t] == pytest.approx(expected, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("name", ["logit", "probability", "log-probability", "rest", "finer"])
    @settings(deadline=None, max_examples=20)
    @given(score=st.floats(-30, 30))
    def test_one_class_stands_for_itself(self, name: str, score: float) -> None:
        aim = target(name).aim(np.array([[score]]), np.array([[0]]))
        assert aim.values().item() == pytest.approx(by_definition(name, [score], 0, False), rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(aim.slopes(), slopes_by_differences(aim), rtol=1e-6, atol=1e-9)

    def test_scores_of_float32_are_reckoned_in_float64(self) -> None:
        aim = target("probability").aim(np.array([[1, 2]], np.float32), np.array([[1]]))
        assert aim.values().dtype == aim.slopes().dtype == np.float64

    @EACH
    def test_other_scores_of_one_image(self, name: str) -> None:
        """Classes, and those to compare with, are the image's: nothing is chosen again."""
        scores, classes = case(4)
        aim = target(name).aim(scores, classes)
        others = case(5)[0].astype(np.float32)
        found = aim.of(1, others)
        assert found.shape == (3, 2)
        for m in range(3):
            moved = aim.moved(np.repeat(others[m : m + 1], 3, axis=0).astype(float))
            np.testing.assert_allclose(found[m], moved.values()[1], rtol=1e-12)


class TestSlopes:
    @EACH
    @ALONE
    @settings(deadline=None, max_examples=30)
    @given(seed=SEEDS, k=st.integers(2, 6))
    def test_they_are_those_of_the_values(self, name: str, alone: bool, seed: int, k: int) -> None:
        aim = target(name).aim(*case(seed, k), alone=alone)
        np.testing.assert_allclose(aim.slopes(), slopes_by_differences(aim), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("name", BENT)
    @ALONE
    @settings(deadline=None, max_examples=30)
    @given(seed=SEEDS)
    def test_they_bend_as_they_should(self, name: str, alone: bool, seed: int) -> None:
        aim = target(name).aim(*case(seed), alone=alone)
        direction = np.random.default_rng(seed + 1).standard_normal((3, 5))
        step = 1e-5
        there, here = aim.moved(aim.scores + step * direction), aim.moved(aim.scores - step * direction)
        expected = (there.slopes() - here.slopes()) / (2 * step)
        np.testing.assert_allclose(aim.bend(direction), expected, rtol=1e-5, atol=1e-8)
        for size in (1e-30, 1e30):  # a derivative along a direction is as long as it is
            np.testing.assert_allclose(aim.bend(size * direction), size * aim.bend(direction), rtol=1e-6)
        assert not aim.bend(0 * direction).any()

    @pytest.mark.parametrize("name", ["logit", "finer", "difference", "difference:1"])
    def test_those_of_linear_targets_do_not(self, name: str) -> None:
        aim = target(name).aim(*case(1))
        assert aim.linear
        assert not aim.bend(np.ones((3, 5))).any()
        np.testing.assert_array_equal(aim.slopes(), aim.moved(aim.scores * 9).slopes())

    def test_the_hessian_of_the_log_probability(self) -> None:
        """``-(diag(p) - p p^T) d``, whatever the class."""
        scores, classes = case(2)
        direction = case(3)[0]
        p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        expected = -p * (direction - (p * direction).sum(axis=1, keepdims=True))
        found = target("log-probability").aim(scores, classes).bend(direction)
        np.testing.assert_allclose(found, np.repeat(expected[:, None], 2, axis=1), rtol=1e-6, atol=1e-8)


class TestExtremes:
    """Warnings are errors, so that there must be none."""

    @EACH
    @ALONE
    @pytest.mark.parametrize("size", [1e3, 1e30, 1e300, 1e-300])
    def test_scores_of_any_size(self, name: str, alone: bool, size: float) -> None:
        scores = size * np.array([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
        for c in range(3):
            aim = target(name).aim(scores, np.full((3, 1), c), alone=alone)
            for made in (aim.values(), aim.slopes(), aim.bend(np.ones((3, 3)))):
                assert np.isfinite(made).all()
            assert (np.abs(aim.slopes()) <= 2).all()
            if "probability" in name:
                assert (aim.values() <= 1).all()

    @pytest.mark.parametrize("margin", [1.0, 20.0, 46.0, 300.0, 700.0])
    @pytest.mark.parametrize("name", BENT)
    @ALONE
    def test_a_probability_next_to_one_keeps_its_slope(self, name: str, alone: bool, margin: float) -> None:
        """p ~ 1 - 1e-20: 1 - p from the others, to the last digits; Decimal knows 400 of them."""
        scores = [margin, 0.0, -1.5]
        with localcontext() as context:
            context.prec = 400
            e = [Decimal(s).exp() for s in scores]
            p = [x / (1 + x) for x in e] if alone else [x / sum(e) for x in e]
            rest = float(1 - p[0])
            own, logarithm, chance = float(p[0] * (1 - p[0])), float(p[0].ln()), float(p[0])
            cross = [0.0, 0.0] if alone else [float(-x) for x in p[1:]]
        aim = target(name).aim(np.array([scores]), np.array([[0]]), alone=alone)
        expected = {
            "probability": [own, *(chance * x for x in cross)],
            "log-probability": [rest, *cross],
            "rest": [1 + rest, *cross],
        }[name]
        np.testing.assert_allclose(aim.slopes()[0, 0], expected, rtol=1e-12)
        value = {"probability": chance, "log-probability": logarithm, "rest": margin + logarithm}[name]
        np.testing.assert_allclose(aim.values()[0, 0], value, rtol=1e-12)
        if name != "rest" and not alone:
            assert aim.slopes()[0, 0].sum() == pytest.approx(0, abs=1e-12 * abs(expected[0]))

    @pytest.mark.parametrize("name", BENT)
    def test_a_class_that_is_out_of_reach(self, name: str) -> None:
        aim = target(name).aim(np.array([[1000.0, 0.0]]), np.array([[1]]))
        value = {"probability": 0, "log-probability": -1000, "rest": -1000}[name]
        assert aim.values().item() == value
        expected = {"probability": [0, 0], "log-probability": [-1, 1], "rest": [-1, 2]}[name]
        assert aim.slopes()[0, 0].tolist() == expected

    def test_equal_scores(self) -> None:
        aim = target("probability").aim(np.zeros((1, 4)), np.array([[2]]))
        assert aim.values().item() == 0.25
        np.testing.assert_allclose(aim.slopes()[0, 0], [-1 / 16, -1 / 16, 3 / 16, -1 / 16], rtol=1e-15)


class TestDifferences:
    def test_the_best_other_class(self) -> None:
        aim = difference().aim(np.array([[1.0, 5.0, 3.0]]), np.array([[1, 0, 2]]))
        assert aim.references[0, :, 0].tolist() == [2, 1, 1]
        assert aim.values().tolist() == [[2, -4, -2]]

    def test_a_class_and_itself_differ_by_nothing(self) -> None:
        aim = difference(1).aim(np.array([[1.0, 5.0]]), np.array([[1]]))
        assert aim.values().item() == 0
        assert not aim.slopes().any()

    @pytest.mark.parametrize("other", [-1, 5, 7])
    def test_a_class_that_the_model_does_not_have(self, other: int) -> None:
        with pytest.raises(InputError, match=rf"target difference:{other}: the model has 5 classes, 0 to 4"):
            difference(other).aim(*case(0))

    def test_a_model_of_one_class(self) -> None:
        text = "target difference: the model has one class and no other to compare with; take logit"
        with pytest.raises(InputError, match=text):
            difference().aim(np.ones((1, 1)), np.zeros((1, 1), int))

    def test_finer_compares_with_the_nearest(self) -> None:
        scores = np.array([[10.0, 9.0, 0.0, 8.5, 20.0]])
        aim = finer(0.5, 2).aim(scores, np.array([[0, 2]]))
        assert [sorted(r) for r in aim.references[0].tolist()] == [[1, 3], [1, 3]]
        assert aim.values().tolist() == [[10 - 0.5 * 8.75, 0 - 0.5 * 8.75]]
        assert aim.slopes()[0, 0].tolist() == [1, -0.25, 0, -0.25, 0]

    def test_finer_without_strength_is_the_score(self) -> None:
        scores, classes = case(6)
        aim = finer(0).aim(scores, classes)
        np.testing.assert_array_equal(aim.values(), np.take_along_axis(scores, classes, axis=1))
        np.testing.assert_array_equal(aim.slopes(), TARGETS["logit"].aim(scores, classes).slopes())

    @pytest.mark.parametrize("name", ["difference", "finer"])
    def test_held_for_copies_of_the_same_images(self, name: str) -> None:
        scores, classes = case(7)
        aim = target(name).aim(scores, classes)
        changed = scores[:, ::-1]
        held = aim.held().aim(changed, classes)
        np.testing.assert_array_equal(held.references, aim.references)
        assert (target(name).aim(changed, classes).references != aim.references).any()
        assert (held.target.name, held.linear) == (name, True)
        np.testing.assert_array_equal(held.values(), aim.moved(changed).values())
        some = aim.held().aim(changed, classes[:, 1:])
        np.testing.assert_array_equal(some.references, aim.references[:, 1:])

    def test_held_where_there_is_nothing_to_compare_with(self) -> None:
        aim = target("logit").aim(*case(8))
        held = aim.held()
        assert held.plain
        np.testing.assert_array_equal(held.aim(aim.scores, aim.classes).slopes(), aim.slopes())


class TestFunctions:
    @settings(deadline=None, max_examples=30)
    @given(seed=SEEDS)
    def test_a_users_function_has_its_slopes_by_differences(self, seed: int) -> None:
        scores, classes = case(seed)
        aim = target(squares).aim(scores, classes)
        assert (aim.target.name, aim.linear, aim.plain) == ("function squares", False, False)
        np.testing.assert_allclose(aim.values(), np.repeat(squares(scores)[:, None], 2, axis=1))
        expected = 2 * scores
        expected[:, 0] += scores[:, -1]
        expected[:, -1] += scores[:, 0]
        np.testing.assert_allclose(aim.slopes(), np.repeat(expected[:, None], 2, axis=1), rtol=1e-6, atol=1e-7)
        bent = aim.bend(np.ones((3, 5)))
        np.testing.assert_allclose(bent[0, 0], [3, 2, 2, 2, 3], rtol=1e-4)

    def test_scores_of_any_size_have_a_step_that_fits(self) -> None:
        aim = target(lambda s: s[:, 0] * 3).aim(np.array([[1e8, -1e3]]), np.array([[0]]))
        np.testing.assert_allclose(aim.slopes()[0, 0], [3, 0], rtol=1e-6, atol=1e-9)

    def test_many_classes_are_taken_in_parts(self) -> None:
        rows = []

        def total(scores: np.ndarray) -> np.ndarray:
            rows.append(len(scores))
            return scores.sum(axis=1)

        slopes = target(total).aim(np.zeros((1, 2500)), np.array([[0]])).slopes()
        np.testing.assert_allclose(slopes, 1, rtol=1e-6)
        assert max(rows) <= 1024

    @pytest.mark.parametrize(
        ("function", "shape"),
        [(lambda s: s, (3, 5)), (lambda s: s.sum(), ()), (lambda s: s[:1, 0], (1,)), (lambda s: s[:, :1], (3, 1))],
    )
    def test_one_that_does_not_give_a_number_a_row(
        self, function: Callable[[Any], Any], shape: tuple[int, ...]
    ) -> None:
        text = f"the target function gives shape {shape} for scores (3, 5); expected one number a row: (3,)"
        with pytest.raises(InputError, match=re.escape(text)):
            target(function).aim(*case(0)).values()

    def test_a_name_alone_makes_no_logit(self) -> None:
        def logit(scores: np.ndarray) -> np.ndarray:
            return -scores[:, 0]

        assert not target(logit).plain
        assert target(logit).name == "function logit"


class TestNames:
    def test_what_a_user_may_say(self) -> None:
        own = Target("own", lambda *given: given[0], lambda *given: given[0])
        assert target(own) is own
        assert [target(n).name for n in NAMES] == NAMES
        assert target("difference:").name == "difference"
        assert [n for n in NAMES if target(n).plain] == ["logit"]
        assert set(TARGETS) == {"logit", "probability", "log-probability", "rest"}

    @pytest.mark.parametrize(
        ("wanted", "hint"),
        [
            ("propability", "Did you mean 'probability'"),
            ("difference:cat", "Did you mean 'difference'"),
            ("difference:-1", "Did you mean 'difference'"),
            ("fine", "Did you mean 'finer'"),
            (5, "Known: 'logit', "),
        ],
    )
    def test_unknown_ones(self, wanted: Any, hint: str) -> None:
        with pytest.raises(InputError, match=re.escape(f"target {wanted!r} is not known. {hint}")):
            target(wanted)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_function_that_answers_in_float32_has_slopes_all_the_same(scale: float) -> None:
    """Steps that float32 does not resolve would make noise of them."""
    scores = scale * np.random.default_rng(0).standard_normal((2, 40))

    def single(s: np.ndarray) -> np.ndarray:
        return (
            TARGETS["log-probability"]
            .values(
                s.astype(np.float32).astype(float), np.full((len(s), 1), 3), np.empty((len(s), 1, 0), np.int64), False
            )[:, 0]
            .astype(np.float32)
        )

    classes = np.full((2, 1), 3)
    slopes = target(single).aim(scores, classes).slopes()
    expected = target("log-probability").aim(scores, classes).slopes()
    np.testing.assert_allclose(slopes, expected, atol=5e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_function_that_gives_no_number_is_answered(bad: float) -> None:
    aim = target(lambda s: s[:, 0] * bad).aim(np.ones((1, 3)), np.zeros((1, 1), np.int64))
    with pytest.raises(InputError, match="gives NaN or infinity for finite scores"):
        aim.slopes()


def test_memory_of_slopes_by_hand_does_not_grow_with_the_square_of_the_classes() -> None:
    tracemalloc.start()
    target(lambda s: s.sum(axis=1)).aim(np.ones((1, 6000)), np.zeros((1, 1), np.int64)).slopes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 1024 * 6000 * 8  # a few blocks of 1024 rows, not 6000 of them


@pytest.mark.parametrize("wanted", [[1], {"a": 1}, None, 3])
def test_what_is_no_target_is_answered(wanted: Any) -> None:
    with pytest.raises(InputError, match="is not known"):
        target(wanted)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda s: s[3],
            r"fails on a NumPy array of \(1, 3\) scores, .*: IndexError: .* lambda s: s\[:, 3\]",
        ),
        (lambda s: "hi", "fails on a NumPy array of .* ValueError"),
        (lambda s: s.detach(), "AttributeError: 'numpy.ndarray' object has no attribute 'detach'"),
    ],
)
def test_a_function_that_fails_is_answered(function: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        target(function).aim(np.ones((1, 3)), np.zeros((1, 1), np.int64)).values()


def test_a_copy_with_other_functions_has_no_code() -> None:
    """A backend that knows a target by its code would compute the slopes of the target that it was."""
    logit = target("logit")
    assert logit.code == "logit"
    assert target("difference:2").code == "difference:2"
    assert replace(logit, slopes=lambda *_: np.zeros((1, 1, 2))).code == ""
