"""Accuracies, confusion matrix and cross-entropy, against scikit-learn and against naive forms in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics

from camcore.accuracy import class_figures, confusion_matrix, cross_entropy, ranks, top_k_accuracy
from camcore.errors import InputError
from camcore.scores import softmax, top_k

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn, *, ties: bool = True) -> Case:
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    values = st.integers(-2, 2).map(float) if ties else st.floats(-15, 15, width=32)
    scores = draw(arrays.arrays(np.float64, (n, k), elements=values))
    return scores, draw(arrays.arrays(np.int64, n, elements=st.integers(0, k - 1)))


@settings(deadline=None)
@given(cases())
def test_a_rank_is_the_place_in_the_sorted_list_also_of_ties(case: Case) -> None:
    scores, labels = case
    order = top_k(scores, scores.shape[1])
    expected = [row.tolist().index(label) for row, label in zip(order, labels, strict=True)]
    assert ranks(scores, labels).tolist() == expected
    for k in (1, 2, 3, 9):
        assert top_k_accuracy(scores, labels, k) == np.mean(
            [label in row[:k] for row, label in zip(order, labels, strict=True)]
        )


def test_accuracies_are_those_of_scikit_learn_where_nothing_is_tied() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.standard_normal((200, 7)), generator.integers(0, 7, 200)
    for k in (1, 3, 5):
        theirs = metrics.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(7))
        assert top_k_accuracy(scores, labels, k) == pytest.approx(theirs)


def test_scores_that_say_nothing_are_not_right_by_chance() -> None:
    labels = np.arange(4)
    assert top_k_accuracy(np.zeros((4, 4)), labels) == 0.25
    assert top_k_accuracy(np.zeros((4, 4)), labels, 3) == 0.75
    assert top_k_accuracy(np.full((4, 4), np.nan), labels, 4) == 0
    mixed = np.array([[np.nan, 5.0, 1.0]])
    assert ranks(mixed, np.array([1])).tolist() == [1]
    assert ranks(mixed, np.array([0])).tolist() == [3]


@settings(deadline=None)
@given(cases(ties=False))
def test_cross_entropy_is_the_mean_surprise(case: Case) -> None:
    logits, labels = case
    naive = [
        math.log(math.fsum(math.exp(z - row.max()) for z in row)) - float(row[label] - row.max())
        for row, label in zip(logits, labels, strict=True)
    ]
    found = cross_entropy(logits, labels)
    np.testing.assert_allclose(found, naive, rtol=1e-12, atol=1e-12)
    theirs = metrics.log_loss(labels, softmax(logits), labels=np.arange(logits.shape[1]))
    assert found.mean() == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_cross_entropy_of_huge_logits_is_exact() -> None:
    logits = np.array([[1e30, 0.0], [0.0, -1e30], [3e38, 3e38]], np.float32)
    np.testing.assert_allclose(cross_entropy(logits, np.array([1, 0, 0])), [1e30, 0, math.log(2)], rtol=1e-6)
    odd = np.array([[-np.inf, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    assert cross_entropy(odd, np.array([0, 1, 0])).tolist()[0] == np.inf
    assert np.isnan(cross_entropy(odd, np.array([0, 1, 0]))[1:]).all()


@settings(deadline=None)
@given(cases())
def test_confusion_and_figures_are_those_of_scikit_learn(case: Case) -> None:
    scores, labels = case
    predicted, classes = scores.argmax(axis=1), scores.shape[1]
    found = confusion_matrix(labels, predicted, classes)
    np.testing.assert_array_equal(found, metrics.confusion_matrix(labels, predicted, labels=np.arange(classes)))
    ours = class_figures(found)
    theirs = metrics.precision_recall_fscore_support(labels, predicted, labels=np.arange(classes), zero_division=np.nan)
    for name, expected in zip(("precision", "recall", "f1", "count"), theirs, strict=True):
        np.testing.assert_allclose(getattr(ours, name), expected)
    assert np.trace(found) == (predicted == labels).sum()


def test_a_class_without_images_has_no_recall_and_one_never_chosen_no_precision() -> None:
    figures = class_figures(np.array([[2, 1, 0], [0, 0, 0], [1, 0, 0]]))
    np.testing.assert_array_equal(figures.count, [3, 0, 1])
    np.testing.assert_allclose(figures.precision, [2 / 3, 0, np.nan])
    np.testing.assert_allclose(figures.recall, [2 / 3, np.nan, 0])
    np.testing.assert_allclose(figures.f1, [2 / 3, 0, 0])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ranks(np.zeros((2, 3)), np.array([0])), r"scores have shape \(2, 3\), labels \(1,\)"),
        (lambda: ranks(np.zeros((0, 3)), np.zeros(0, int)), "neither empty"),
        (lambda: ranks(np.zeros((1, 3)), np.array([0.0])), "type float64; expected"),
        (lambda: ranks(np.zeros((1, 3)), np.array([3])), "labels hold class 3; expected 0 to 2"),
        (lambda: top_k_accuracy(np.zeros((1, 3)), np.array([0]), 0), "k is 0; expected at least 1"),
        (lambda: confusion_matrix(np.array([0]), np.array([-1]), 2), "predictions hold class -1; expected 0 to 1"),
        (lambda: confusion_matrix(np.array([0]), np.array([0, 1]), 2), r"labels have shape \(1,\), predictions \(2,\)"),
        (lambda: class_figures(np.zeros((2, 3), int)), r"the confusion matrix has shape \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_answered(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]
