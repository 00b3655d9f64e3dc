"""Softmax, the best k, and every way to name classes."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camcore import InputError, choose_classes, softmax, top_k
from camcore.scores import kind_of_scores, probabilities

FINITE = st.floats(-50, 50)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
LABELS = ["tench, Tinca tinca", "tabby, tabby cat", "Tabby", "crane", "crane"]
SCORES = np.array([[1.0, 5, 3, 4, 2], [9, 5, 6, 8, 7]])


@settings(deadline=None)
@given(hnp.arrays(np.float64, SHAPES, elements=FINITE))
def test_softmax_is_that_of_the_textbook(scores: np.ndarray) -> None:
    naive = [[math.exp(s) / sum(math.exp(t) for t in row) for s in row] for row in scores]
    np.testing.assert_allclose(softmax(scores), naive, rtol=1e-12)
    np.testing.assert_allclose(softmax(scores, axis=0), softmax(scores.T).T, rtol=1e-14)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([3e38, 3e38], [0.5, 0.5]), ([-3e38, 3e38], [0, 1]), ([-np.inf, 0], [0, 1]), ([-200, 0], [0, 1])],
)
def test_softmax_of_extremes(scores: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(softmax(np.array([scores], np.float32)), [expected], atol=1e-30)


def test_probabilities_of_each_kind() -> None:
    logits = np.array([[1.0, 2.0, -1.0]])
    np.testing.assert_array_equal(probabilities(logits, "logit"), softmax(logits))
    np.testing.assert_array_equal(probabilities(softmax(logits), "probability"), softmax(logits))
    np.testing.assert_allclose(probabilities(np.log(softmax(logits)), "log-probability"), softmax(logits), rtol=1e-14)


@pytest.mark.parametrize("logit", [-1000.0, -2.0, 0.0, 3.0, 30.0])
def test_a_single_logit_goes_through_the_logistic_function(logit: float) -> None:
    expected = math.exp(logit) / (1 + math.exp(logit))
    np.testing.assert_allclose(probabilities(np.array([[logit]]), "logit"), [[expected]], atol=1e-15)


def best(row: list[float], k: int) -> list[int]:
    """Best first, ties to the lower index, NaN last."""
    return sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), -row[i] if row[i] == row[i] else 0, i))[:k]


@example(np.array([[2.0, 2.0, 0.0], [np.nan, 1.0, 0.0]]), 1)  # one place too many, and one too few
@settings(deadline=None)
@given(
    hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([-np.inf, -1, 0, 1, 2, 3, 4, 5, np.inf, np.nan])),
    st.integers(0, 10),
)
def test_top_k_sorts_each_row(scores: np.ndarray, k: int) -> None:
    found = top_k(scores, k)
    assert found.dtype == np.int64
    assert found.tolist() == [best(row, k) for row in scores.tolist()]


def test_top_k_of_scores_without_ties() -> None:
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(1000.0), (4, 1)), axis=1)
    assert top_k(scores, 5).tolist() == [best(row, 5) for row in scores.tolist()]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, [[1], [0]]),
        ("top1", [[1], [0]]),
        ("top3", [[1, 3, 2], [0, 3, 4]]),
        ("top99", [[1, 3, 2, 4, 0], [0, 3, 4, 2, 1]]),
        ("all", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]),
        (3, [[3], [3]]),
        (np.int64(3), [[3], [3]]),
        (np.array(3), [[3], [3]]),
        ("3", [[3], [3]]),
        ([3, 4], [[3], [4]]),
        ((3, 4), [[3], [4]]),
        (np.array([[3, 4, 3], [0, 1, 2]], np.uint8), [[3, 4, 3], [0, 1, 2]]),
        ("tench", [[0], [0]]),
        (" TINCA TINCA ", [[0], [0]]),
        ("tench, tinca tinca", [[0], [0]]),
        ("tabby", [[2], [2]]),  # a whole label before one of several synonyms
        ("tabby cat", [[1], [1]]),
        ("crane", [[3], [3]]),  # the first of two of the same name
        (["tench", "4"], [[0], [4]]),
        ([["tench", "crane"], ["tabby cat", "tabby"]], [[0, 3], [1, 2]]),
    ],
)
def test_ways_to_choose(classes: Any, expected: list[list[int]]) -> None:
    chosen = choose_classes(SCORES, classes, LABELS)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == expected


@pytest.mark.parametrize("classes", [5, -1, "5", [0, 5], [[0], [-1]], np.uint64(2**63)])
def test_a_class_out_of_range(classes: Any) -> None:
    with pytest.raises(InputError, match=r"class -?\d+ is out of range: the model has 5 classes, 0 to 4"):
        choose_classes(SCORES, classes)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no class is called 'Crain'\. Did you mean 'crane'"):
        choose_classes(SCORES, "Crain", LABELS)


@pytest.mark.parametrize("name", ["tench", "top0", "top-3", "top", "-1", "²", "top²", "9" * 30, "top" + "9" * 30, ""])
def test_a_name_without_labels(name: str) -> None:
    text = f"class {name!r} is a name, but the model has no class names; give labels, or an index"
    with pytest.raises(InputError, match=re.escape(text)):
        choose_classes(SCORES, name)


@pytest.mark.parametrize(
    ("classes", "kind"), [([0.0, 1.0], "float64"), ([True, False], "bool"), (10**30, "object"), ([], "float64")]
)
def test_classes_that_are_no_whole_numbers(classes: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"classes are {kind}; expected whole numbers or names"):
        choose_classes(SCORES, classes)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2), (3, 2), (2, 0), (2, 1, 1)])
def test_classes_that_do_not_fit_the_batch(shape: tuple[int, ...]) -> None:
    text = f"classes have shape {shape} for 2 images; expected an int, a list of 2 (one an image) or an array (2, T)"
    with pytest.raises(InputError, match=re.escape(text)):
        choose_classes(SCORES, np.zeros(shape, int))


def test_the_text_for_one_image_has_no_plural() -> None:
    with pytest.raises(InputError, match=r"shape \(2,\) for 1 image; expected"):
        choose_classes(SCORES[:1], [0, 1])


@pytest.mark.parametrize(
    ("found", "independent", "expected"),
    [
        ("logit", None, "logit"),
        ("logit", True, "independent logit"),
        ("logit", False, "logit"),
        ("independent logit", None, "independent logit"),
        ("independent logit", False, "logit"),
        ("probability", True, "probability"),  # they are what they are
    ],
)
def test_the_user_may_know_what_the_model_does_not_say(found: str, independent: bool | None, expected: str) -> None:
    assert kind_of_scores(found, independent) == expected


@pytest.mark.parametrize("target", ["probability", "log-probability", "rest"])
def test_but_not_of_a_target_made_of_probabilities(target: str) -> None:
    text = f"independent=True was given, but target '{target}' is taken through a softmax, as the model says"
    with pytest.raises(InputError, match=text):
        kind_of_scores("logit", True, target=target)
    with pytest.raises(InputError, match=r"independent=False was given, .* is taken through sigmoids"):
        kind_of_scores("independent logit", False, target=target)
    assert kind_of_scores("independent logit", True, target=target) == "independent logit"
