"""A chart draws its lines where their values are, as much of them as there is, and says what the latest one is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drifting import drifting
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.films.axes import linear_axis, share_axis
from camcore.films.chart import Chart, Line, Plot
from camcore.films.charts import loss_plot, share_text, shares_plot
from camcore.films.theme import BAD, LOSSES, PANEL, SHARES, TEXT
from camcore.recording import Curve

SIZE = (300, 180)


def curve(values: Any, every: int = 1) -> Curve:
    return Curve(np.arange(1, len(values) + 1) * every, np.asarray(values, np.float64))


def amount(picture: Any, color: tuple[int, int, int]) -> int:
    """How many pixels have a colour."""
    return int((picture == color).all(axis=2).sum())


def extent(picture: Any, color: tuple[int, int, int], below: int = 30) -> tuple[int, int, int, int]:
    """First and last row and column of a colour, the legend left out."""
    rows, columns = np.nonzero((picture[below:] == color).all(axis=2))
    return int(rows.min()) + below, int(rows.max()) + below, int(columns.min()), int(columns.max())


class TestLatest:
    @pytest.mark.parametrize(
        ("step", "expected"),
        [(0, ("–", True)), (1, ("5.0", True)), (2, ("NaN", False)), (3, ("inf", False)), (9, ("7.0", True))],
    )
    def test_the_legend_says_what_there_is(self, step: int, expected: tuple[str, bool]) -> None:
        line = Line("loss", curve([5.0, np.nan, np.inf, 7.0]), TEXT, str)
        assert line.latest(step) == expected

    def test_nothing_was_logged(self) -> None:
        assert Line("loss", curve([]), TEXT, str).latest(5) == ("–", True)

    def test_the_smoothed_value(self) -> None:
        assert Line("loss", curve([5.0]), TEXT, str, smooth=curve([4.0])).latest(1) == ("4.0", True)


class TestChart:
    def test_a_line_lies_where_its_values_are(self) -> None:
        steps, color = np.array([0, 50, 100]), (255, 0, 0)
        axis = linear_axis(0, 2)
        for value in (0.0, 1.0, 2.0):
            chart = Chart(Plot([Line("x", Curve(steps, np.full(3, value)), color, str)], axis, (0, 100)), SIZE)
            top, bottom, left, right = extent(chart.draw(), color)
            expected = chart._bottom + (chart._top - chart._bottom) * value / 2
            assert abs((top + bottom) / 2 - expected) <= 1
            assert abs(left - chart._left) <= 2
            assert abs(right - chart._right) <= 4

    def test_it_grows_with_the_step_and_never_moves(self) -> None:
        plot = shares_plot(drifting(frames=20), ["accuracy"])
        assert plot is not None
        chart = Chart(plot, SIZE)
        pictures = [chart.draw(step).astype(int) for step in (0, 60, 120, 190)]
        assert all(picture.shape == (180, 300, 3) for picture in pictures)
        amounts = [amount(picture, SHARES[0]) for picture in pictures]
        assert amounts[0] < amounts[1] < amounts[2] < amounts[3]
        np.testing.assert_array_equal(chart.draw(), chart.draw(190))
        # What was drawn of the line stays, but for the dot at its end.
        before = (pictures[1][40:, :80] == SHARES[0]).all(axis=2)
        assert (pictures[3][40:, :80][before] == SHARES[0]).all()

    def test_nothing_is_drawn_of_what_is_not_yet(self) -> None:
        plot = loss_plot(drifting())
        assert plot is not None
        assert amount(Chart(plot, SIZE).draw(0)[40:], LOSSES[0]) == 0

    def test_values_that_are_none_are_left_out_and_marked(self) -> None:
        good, bad = np.linspace(2, 1, 100), np.linspace(2, 1, 100)
        bad[40:60] = np.nan
        drawn = []
        for values in (good, bad):
            plot = loss_plot(drifting(frames=11, curves={"loss": curve(values)}))
            assert plot is not None
            drawn.append(Chart(plot, SIZE).draw(100))
        assert [amount(picture[40:], BAD) > 0 for picture in drawn] == [False, True]
        left, right = extent(drawn[1], BAD)[2:]
        assert 0.35 < left / SIZE[0] < 0.45
        assert 0.5 < right / SIZE[0] < 0.6

    def test_the_legend_turns_red_when_the_loss_is_lost(self) -> None:
        plot = loss_plot(drifting(curves={"loss": curve([1.0, np.nan])}))
        assert plot is not None
        chart = Chart(plot, SIZE)
        assert [amount(chart.draw(step)[:40], BAD) > 0 for step in (1, 2)] == [False, True]

    def test_a_long_recording_shows_every_peak(self) -> None:
        values = np.where(np.arange(50_000) == 31_415, 3.0, 1.0)
        line = Line("x", Curve(np.arange(50_000), values), (255, 0, 0), str)
        picture = Chart(Plot([line], linear_axis(0, 4), (0, 50_000)), SIZE).draw()
        top = int(np.nonzero((picture[40:, :, 0] > 120) & (picture[40:, :, 1] < 60))[0].min()) + 40
        flat = Chart(
            Plot([replace(line, curve=Curve(line.curve.steps, np.ones(50_000)))], linear_axis(0, 4), (0, 50_000)), SIZE
        )
        assert top < extent(flat.draw(), (255, 0, 0))[0] - 40

    def test_a_thinned_line_looks_like_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.cumsum(np.random.default_rng(0).normal(size=8000))
        line = Line("x", Curve(np.arange(8000), values), (255, 0, 0), str)
        plot = Plot([line], linear_axis(float(values.min()), float(values.max())), (0, 8000))
        thin = Chart(plot, SIZE)
        monkeypatch.setattr(Chart, "_thinned", lambda self, curve: curve)
        whole = Chart(plot, SIZE)
        assert len(thin._thin[id(line.curve)].steps) < 2500 < 8000 == len(whole._thin[id(line.curve)].steps)
        difference = np.abs(thin.draw(5000).astype(int) - whole.draw(5000)).max(axis=2)
        assert (difference > 60).mean() < 0.005

    def test_an_arrow_marks_a_value_beyond_the_axis_from_its_step_on(self) -> None:
        values = np.where(np.arange(100) == 60, 9.0, 1.0)
        line = Line("x", curve(values), (255, 0, 0), lambda value: f"{value:.0f}", smooth=curve(np.ones(100)))
        chart = Chart(Plot([line], linear_axis(0, 2), (0, 100)), SIZE)
        above = slice(int(chart._top) - 6, int(chart._top) + 8)
        before, after = (amount(chart.draw(step)[above], (255, 0, 0)) for step in (60, 61))
        assert before == 0
        assert after > 15

    def test_the_level_of_chance_is_dashed(self) -> None:
        lines = [Line("x", curve([0.9]), (255, 0, 0), str, level=level) for level in (None, float("nan"), 0.25)]
        amounts = [
            int((Chart(Plot([line], linear_axis(0, 1), (0, 10)), SIZE).draw()[100:] != PANEL).any(axis=2).sum())
            for line in lines
        ]
        assert amounts[0] == amounts[1] < amounts[2]

    def test_chance_is_named_in_the_legend_once_and_not_beside_the_curve(self) -> None:
        lines = [
            Line(name, curve([0.9]), color, share_text, level=0.3, level_name="heat by chance")
            for name, color in (("a", (255, 0, 0)), ("b", (0, 255, 0)))
        ]
        charts = [Chart(Plot(some, share_axis(), (0, 10)), SIZE) for some in (lines[:1], lines)]
        assert [len(chart._places) for chart in charts] == [2, 3]
        level = round(float(charts[1]._y(0.3)))
        near = charts[1].draw()[level - 12 : level - 2, 60 : int(charts[1]._right)]
        assert (near == PANEL).all()

    def test_charts_side_by_side_have_the_same_steps_and_say_what_they_are(self) -> None:
        line = Line("x", curve([0.5, 1.0], every=500), (255, 0, 0), str)
        pictures = [Chart(Plot([line], axis, (0, 1000)), SIZE).draw() for axis in (linear_axis(0, 1), share_axis())]
        below = int(Chart(Plot([line], share_axis(), (0, 1000)), SIZE)._bottom) + 8
        np.testing.assert_array_equal(pictures[0][below:], pictures[1][below:])
        epochs = Chart(Plot([line], share_axis(), (0, 1000), "epochs"), SIZE).draw()
        assert not np.array_equal(epochs[below:, -60:], pictures[1][below:, -60:])
        assert (epochs[below:, -60:] != PANEL).any()

    def test_many_and_long_names_stay_inside(self) -> None:
        lines = [Line(f"the share of something {n} " * 3, curve([0.5]), SHARES[n], share_text) for n in range(4)]
        picture = Chart(Plot(lines, linear_axis(0, 1), (0, 1)), SIZE).draw()
        assert (picture[20:-20, -8:] == PANEL).all()

    @given(
        st.lists(st.floats(width=32) | st.sampled_from([0.0, 1e300, -1e300]), max_size=80),
        st.integers(0, 90),
        st.sampled_from([(60, 40), (300, 180), (344, 90)]),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_loss_is_drawn(self, values: list[float], step: int, size: tuple[int, int]) -> None:
        plot = loss_plot(drifting(curves={"loss": curve(values)}))
        assert (plot is None) == (not values)
        if plot is not None:
            assert Chart(plot, size, font=9).draw(step).shape == (size[1], size[0], 3)
