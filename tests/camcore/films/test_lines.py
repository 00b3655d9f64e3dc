"""Smoothing against its definition, and thinning that loses no extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from camcore.films.lines import decimated, smoothed
from camcore.recording import Curve

values = arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e3, 1e3) | st.just(float("nan")))


def curve(numbers: Any) -> Curve:
    return Curve(np.arange(len(numbers)), np.asarray(numbers, np.float64))


def test_smoothing_is_a_weighted_mean_of_what_came_before() -> None:
    numbers = np.random.default_rng(0).normal(size=1000)
    found = smoothed(curve(numbers)).values
    for n in (0, 1, 57, 999):
        weights = (1 - 40 / 1000) ** np.arange(n, -1, -1.0)
        assert found[n] == pytest.approx(np.average(numbers[: n + 1], weights=weights))


@given(values)
def test_smoothing_stays_within_what_it_smooths(numbers: Any) -> None:
    found = smoothed(curve(numbers)).values
    finite = np.isfinite(numbers)
    assert (np.isfinite(found) == finite).all()
    if finite.any():
        assert found[finite].min() >= numbers[finite].min() - 1e-9
        assert found[finite].max() <= numbers[finite].max() + 1e-9


def test_a_number_that_is_none_does_not_spread() -> None:
    found = smoothed(curve([1.0, np.nan, np.inf, 1.0])).values
    assert found[[0, 3]].tolist() == [1, 1]
    assert np.isnan(found[1])
    assert found[2] == np.inf


@given(values, st.integers(1, 30))
def test_what_is_left_are_own_points_with_the_extremes_of_each_column(numbers: Any, columns: int) -> None:
    whole = curve(numbers)
    thin = decimated(whole, 0, len(numbers), columns)
    assert len(thin.steps) <= max(4 * columns, 1)
    np.testing.assert_array_equal(whole.values[thin.steps], thin.values)
    assert thin.steps[[0, -1]].tolist() == [0, len(numbers) - 1]
    column = whole.steps * columns // len(numbers)
    for c in np.unique(column):
        of_all, of_kept = numbers[column == c], thin.values[thin.steps * columns // len(numbers) == c]
        if np.isfinite(of_all).any():
            assert np.nanmin(of_kept) == np.nanmin(of_all)
            assert np.nanmax(of_kept) == np.nanmax(of_all)


def test_few_points_stay_as_they_are() -> None:
    whole = curve(np.arange(40.0))
    assert decimated(whole, 0, 39, 10) is whole
