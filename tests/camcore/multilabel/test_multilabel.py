"""Which classes are there, and to which one each pixel belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camcore import InputError, label_mask
from camcore.multilabel import in_order, present, strongest

UNIT = st.floats(0, 1, width=32)


def test_a_class_is_there_from_the_threshold_on() -> None:
    chances = np.array([[0.5, 0.49, np.nan, 1.0]])
    assert present(chances, 0.5).tolist() == [[True, False, False, True]]
    assert present(chances, 0).tolist() == [[True, True, False, True]]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_a_threshold_that_is_no_probability(threshold: float) -> None:
    with pytest.raises(InputError, match=r"threshold is .*; expected a probability, 0 to 1"):
        present(np.zeros((1, 2)), threshold)


@pytest.mark.parametrize(
    ("classes", "most", "expected"),
    [
        ([0, 1, 2, 3], None, [3, 1, 0]),
        ([3, 2, 1], None, [0, 2]),  # places, not classes
        ([1, 1, 3, 3], None, [2, 0]),  # of a class named twice the first
        ([0, 1, 2, 3], 2, [3, 1]),
        ([2], None, []),
        ([], None, []),
    ],
)
def test_the_most_probable_comes_first(classes: list[int], most: int | None, expected: list[int]) -> None:
    assert in_order(np.array([0.5, 0.7, 0.1, 0.9]), classes, 0.5, most) == expected


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)), elements=UNIT), UNIT)
def test_the_mask_is_the_argmax_over_a_background_and_the_maps(heats: np.ndarray, score: float) -> None:
    """As the seeds of IRN and ReCAM are made: a constant channel in front, then the argmax."""
    score = min(score, 0.99)
    classes = np.array([7, 2, 0, 5])[: len(heats)]
    padded = np.concatenate([np.full((1, *heats.shape[1:]), np.float32(score)), heats])
    expected = np.array([0, *(classes + 1)])[padded.argmax(axis=0)]
    np.testing.assert_array_equal(label_mask(heats, classes, threshold=score), expected)


def test_ties_and_nan() -> None:
    heats = [[[0.2, 0.6, np.nan, 0.9]], [[0.2, 0.6, np.nan, np.nan]]]
    assert label_mask(heats, [4, 3], threshold=0.2).tolist() == [[0, 5, 0, 5]]


@pytest.mark.parametrize("space", [(5,), (2, 3, 4)])
def test_other_numbers_of_axes(space: tuple[int, ...]) -> None:
    heats = np.random.default_rng(0).random((3, *space))
    found = label_mask(heats, [0, 1, 2])
    assert found.shape == space
    np.testing.assert_array_equal(found, np.where(heats.max(0) > 0.2, heats.argmax(0) + 1, 0))


def test_heats_are_taken_one_at_a_time() -> None:
    alive = 0

    def maps() -> Any:
        nonlocal alive
        for i in range(5):
            alive += 1
            yield np.full((2, 2), i / 5)
            alive -= 1

    assert strongest(maps(), 0.2, (2, 2)).tolist() == [[5, 5], [5, 5]]
    assert alive == 0


@pytest.mark.parametrize(
    ("heats", "classes", "threshold", "text"),
    [
        (np.zeros((2, 4, 4)), [0, 1], 1.0, "threshold is 1.0; expected the score of the background, from 0 to below 1"),
        (np.zeros((2, 4, 4)), [0, 1], -0.1, "threshold is -0.1"),
        (np.zeros((2, 4, 4)), [0], 0.2, r"heats have shape \(2, 4, 4\) for classes of shape \(1,\)"),
        (np.zeros((2, 2, 4, 4)), [[0, 1], [2, 3]], 0.2, "give the images one at a time"),
        (np.zeros(4), [0, 1, 2, 3], 0.2, "expected one map for each class"),
    ],
)
def test_what_makes_no_mask(heats: Any, classes: Any, threshold: float, text: str) -> None:
    with pytest.raises(InputError, match=text):
        label_mask(heats, classes, threshold=threshold)
