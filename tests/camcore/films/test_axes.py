"""Ticks are round numbers that cover what is drawn, and places lie between 0 and 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.films.axes import linear_axis, log_axis, loss_axis, share_axis, step_axis
from camcore.recording import Curve

numbers = st.floats(-1e12, 1e12)
losses = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30)


@given(numbers, numbers, st.integers(1, 8))
def test_a_linear_axis_covers_its_values_with_few_round_ticks(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    axis = linear_axis(low, high, most=most)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= low + slack
    assert axis.high >= high - slack
    assert 2 <= len(axis.ticks) <= most + 2
    steps = np.diff([value for value, _ in axis.ticks])
    mantissa = steps[0] / 10.0 ** math.floor(math.log10(steps[0] * (1 + 1e-9)))
    assert min(abs(mantissa - n) for n in (1, 2, 5)) < 1e-3
    assert axis.place(axis.low) == 0
    assert axis.place(axis.high) == 1


def test_ticks_are_short() -> None:
    assert [label for _, label in linear_axis(0, 0.3).ticks] == ["0", "0.1", "0.2", "0.3"]
    assert [label for _, label in linear_axis(0, 40_000).ticks] == ["0", "10k", "20k", "30k", "40k"]
    assert [label for _, label in linear_axis(0, 3e6, most=3).ticks] == ["0", "1M", "2M", "3M"]
    assert [label for _, label in share_axis().ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]


@given(st.floats(1e-12, 1e6), st.floats(1, 1e9))
def test_a_logarithmic_axis_covers_its_values(low: float, ratio: float) -> None:
    axis = log_axis(low, low * ratio)
    assert axis.low <= low * (1 + 1e-6)
    assert axis.ticks[0][0] == axis.low
    assert len(axis.ticks) <= 6
    assert axis.place(low) >= 0
    assert axis.place(low * ratio) <= 1


def test_places_on_a_logarithmic_axis() -> None:
    axis = log_axis(0.01, 100)
    np.testing.assert_allclose(axis.place(np.array([0.01, 0.1, 1, 100, 0, 1e9])), [0, 0.25, 0.5, 1, 0, 1])
    assert np.isnan(axis.place(np.nan))


@pytest.mark.parametrize(
    ("raw", "log", "span"),
    [
        ([2.0, 1.0, 0.5], False, (0, 2)),
        ([2.0, 1.0, 0.01], True, (0.01, 10)),
        ([2.0, 1.0, 0.0], False, (0, 2)),
        ([2.3, 2.2, 2.1], False, (2.1, 2.3)),
        ([-1.0, -3.0], False, (-3, -1)),
        ([], False, (0, 1)),
        ([math.nan, math.inf], False, (0, 1)),
    ],
)
def test_the_axis_of_a_loss(raw: list[float], log: bool, span: tuple[float, float]) -> None:
    axis = loss_axis(np.array(raw), np.array(raw))
    assert axis.log == log
    assert (axis.low, axis.high) == pytest.approx(span)


def test_a_single_outlier_is_cut_off() -> None:
    smooth = np.ones(1000)
    raw = np.where(np.arange(1000) == 500, 90.0, 1.0)
    axis = loss_axis(raw, smooth)
    assert axis.high < 2
    assert axis.beyond(Curve(np.arange(1000), raw)) == [(500, 90.0)]


def test_all_that_is_drawn_in_full_colour_is_on_the_axis() -> None:
    trained, validation = np.full(1128, 1.5), np.array([1.61, 1.65, 3.64, 2.09, 0.58])
    axis = loss_axis(np.concatenate([trained, validation]), np.concatenate([trained, validation]))
    assert axis.high >= 3.64
    assert axis.beyond(Curve(np.arange(5), validation)) == []


def test_what_is_beyond_an_axis() -> None:
    curve = Curve(np.array([0, 2, 4, 6]), np.array([-3.0, math.nan, 1 + 1e-9, math.inf]))
    assert share_axis().beyond(curve) == [(0, -3.0)]
    assert share_axis().beyond(Curve(np.arange(1), np.array([math.nan]))) == []


@given(losses)
def test_any_loss_has_an_axis(values: list[float]) -> None:
    raw = np.array(values, np.float64)
    axis = loss_axis(raw, raw)
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8
    places = axis.place(raw)
    assert (np.isnan(places) == np.isnan(raw)).all()
    assert ((places[~np.isnan(raw)] >= 0) & (places[~np.isnan(raw)] <= 1)).all()


@given(st.integers(0, 10**7), st.integers(1, 6))
def test_steps_are_whole_and_end_with_the_training(last: int, most: int) -> None:
    axis = step_axis(0, last, most=most)
    assert (axis.low, axis.high) == (0, max(last, 1))
    assert all(value == round(value) and 0 <= value <= axis.high for value, _ in axis.ticks)
    assert axis.ticks[0][0] == 0
