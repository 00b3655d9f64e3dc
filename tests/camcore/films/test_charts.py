"""Which curves a chart shows, and that it shows as much of them as there is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from drifting import drifting

from camcore.drift import trends
from camcore.errors import InputError
from camcore.films.charts import loss_plot, moved_plot, share_curves, share_text, shares_plot
from camcore.films.theme import LOSSES
from camcore.recording import Curve


def curve(values: Any, every: int = 1) -> Curve:
    return Curve(np.arange(1, len(values) + 1) * every, np.asarray(values, np.float64))


class TestLossPlot:
    def test_the_first_two_losses(self) -> None:
        curves = {name: curve([2.0, 1.0]) for name in ("accuracy", "train_loss", "Val Loss", "loss_box")}
        plot = loss_plot(drifting(curves=curves))
        assert plot is not None
        assert [(line.name, line.color) for line in plot.lines] == list(
            zip(("train loss", "Val Loss"), LOSSES, strict=True)
        )

    def test_of_several_that_of_the_validation_is_beside_the_first(self) -> None:
        plot = loss_plot(drifting(curves={n: curve([2.0, 1.0]) for n in ("loss", "train_loss", "val_loss")}))
        assert plot is not None
        assert [line.name for line in plot.lines] == ["loss", "val loss"]

    def test_no_loss_is_no_plot(self) -> None:
        assert loss_plot(drifting(curves={"accuracy": curve([0.5])})) is None
        assert loss_plot(drifting(curves={"loss": curve([])})) is None

    def test_long_ones_are_smoothed_with_the_raw_values_behind(self) -> None:
        few, many = (loss_plot(drifting(curves={"loss": curve(np.ones(n))})) for n in (59, 60))
        assert few is not None
        assert many is not None
        assert few.lines[0].smooth is None
        assert many.lines[0].smooth is not None

    def test_the_axis_spans_the_whole_training(self) -> None:
        plot = loss_plot(drifting(frames=3, every=10, curves={"loss": curve(np.ones(250))}))
        assert plot is not None
        assert plot.steps == (0, 250)


class TestShareCurves:
    def test_by_default_what_was_logged_and_the_energy(self) -> None:
        curves = {"top1": curve([20.0, 90.0]), "lr": curve([0.1, 0.05]), "val_acc": curve([0.2, 0.7])}
        found = share_curves(drifting(curves=curves))
        assert list(found) == ["top1", "val_acc", "energy_inside"]
        assert found["top1"].values.tolist() == [0.2, 0.9]

    def test_no_more_than_three_logged_ones(self) -> None:
        curves = {f"accuracy {n}": curve([0.5]) for n in range(9)}
        assert list(share_curves(drifting(curves=curves, masks=None))) == ["accuracy 0", "accuracy 1", "accuracy 2"]

    def test_the_probability_where_nothing_else_is_known(self) -> None:
        recording = drifting(curves={"loss": curve([1.0])}, masks=None)
        found = share_curves(recording)
        assert list(found) == ["probability"]
        np.testing.assert_allclose(found["probability"].values, recording.probabilities[:, 0], rtol=1e-6)

    def test_those_that_are_asked_for(self) -> None:
        recording = drifting(curves={"lr": curve([0.1, 0.05]), "energy_inside": curve([0.25])})
        found = share_curves(recording, ["peaks_inside", "lr", "energy_inside"])
        assert list(found) == ["peaks_inside", "lr", "energy_inside"]
        assert found["energy_inside"].values.tolist() == [0.25]  # what was logged goes before what is computed
        np.testing.assert_array_equal(found["peaks_inside"].values, trends(recording)["peaks_inside"].values)

    def test_trends_that_are_given_are_not_computed(self) -> None:
        given_ones = {"energy_inside": curve([0.125])}
        assert share_curves(drifting(), trends=given_ones)["energy_inside"] is given_ones["energy_inside"]

    def test_a_curve_that_is_unknown_or_no_share(self) -> None:
        recording = drifting()
        with pytest.raises(InputError, match=re.escape("curve 'acuracy' is not there. Did you mean 'accuracy'?")):
            share_curves(recording, ["acuracy"])
        with pytest.raises(InputError, match=r"curve 'loss' runs from 0.2828 to 2; expected shares, within 0 to 1"):
            share_curves(recording, ["loss"])

    def test_a_curve_without_a_number(self) -> None:
        recording = drifting(curves={"accuracy": curve([np.nan, np.nan])}, masks=None)
        assert list(share_curves(recording)) == ["probability"]
        assert np.isnan(share_curves(recording, ["accuracy"])["accuracy"].values).all()

    def test_none_asked_for_is_no_plot(self) -> None:
        assert shares_plot(drifting(), []) is None

    def test_rough_ones_are_smoothed_with_the_raw_values_behind(self) -> None:
        rough, even = curve(np.arange(100) % 2), curve(np.linspace(0, 1, 100))
        plot = shares_plot(drifting(curves={"accuracy": rough, "val_accuracy": even}), ["accuracy", "val_accuracy"])
        assert plot is not None
        assert plot.lines[0].curve is rough
        assert 0.4 < plot.lines[0].main.at(100) < 0.6
        assert plot.lines[1].smooth is None

    def test_chance_is_the_area_of_the_object(self) -> None:
        plot = shares_plot(drifting(), ["accuracy", "energy_inside"])
        assert plot is not None
        assert [line.level for line in plot.lines] == [None, 0.5]
        assert (plot.lines[1].name, plot.lines[1].level_name) == ("heat on the object", "heat by chance")


def test_share_text() -> None:
    assert [share_text(value) for value in (0.0, 0.996, 1.0, float("nan"))] == ["0 %", "100 %", "100 %", "–"]


def test_how_far_the_maps_moved() -> None:
    recording = drifting()
    plot = moved_plot(recording)
    found = trends(recording)
    np.testing.assert_array_equal(plot.lines[0].curve.values, found["drift_final"].values)
    np.testing.assert_array_equal(plot.lines[1].curve.values, found["drift_previous"].values)
    assert plot.axis.low == 0
    assert plot.axis.high >= max(1, found["drift_final"].values.max())
