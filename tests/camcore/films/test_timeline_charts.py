"""The charts of the timeline: what is drawn where, and that no value is lost which would be seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from camcore.films.timeline_charts import charts
from camcore.recording import Curve, Recording

STEPS = np.arange(1, 10_001)


def recording(**curves: np.ndarray) -> Recording:
    """Of 10,000 steps: two frames of two pictures, of which one is right, then both."""
    return Recording(
        np.array([0, 10_000]),
        np.zeros((2, 2, 3, 3), np.float32),
        np.ones((2, 2), np.float32),
        np.array([[0, 0], [0, 1]]),
        np.array([0, 1]),
        np.zeros((2, 6, 6, 3), np.uint8),
        {name: Curve(STEPS[:: 10_000 // len(values)], values) for name, values in curves.items()},
    )


def rough() -> np.ndarray:
    return 1 + np.random.default_rng(0).random(10_000)


def test_curves_that_belong_together_share_a_chart():
    found = charts(
        recording(
            loss=rough(),
            accuracy=np.linspace(0, 1, 10),
            val_loss=np.linspace(3, 1, 10),
            epoch=STEPS / 100,
            lr=np.linspace(0.1, 0, 10),
            top5=np.linspace(0, 90, 10),
            empty=np.full(10, np.nan),
        ),
        {},
    )
    told = [(chart["title"], [line["name"] for line in chart["lines"]], chart["extra"]) for chart in found]
    assert told == [
        ("Loss", ["loss", "val loss"], False),
        ("Shares", ["accuracy", "top5"], False),
        ("lr", ["lr"], True),
    ]
    assert [line["colour"] for chart in found for line in chart["lines"]] == [0, 1, 1, 2, 2]
    assert found[1]["lines"][1]["main"][1][-1] == 0.9


def test_of_many_shares_the_first_six_are_in_sight():
    found = charts(recording(**{f"iou_{n}": np.linspace(0, 1, 5) for n in range(8)}), {})
    assert [(chart["title"], len(chart["lines"]), chart["extra"]) for chart in found] == [
        ("Shares", 6, False),
        ("More shares", 2, True),
    ]


def test_without_a_share_the_watched_pictures_are_counted():
    (only,) = charts(recording(), {})
    assert (only["title"], only["lines"][0]["main"]) == ("Accuracy", [[0, 10_000], [0.5, 1.0]])
    assert only["axis"]["ticks"][-1] == (1.0, "100 %")


def test_trends():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0] = True
    seen = replace(recording(), masks=masks)
    ends = np.array([0, 10_000])
    trends = {
        "drift_previous": Curve(ends, np.array([np.nan, 0.5])),
        "drift_final": Curve(ends, np.array([1.5, 0.0])),
        "energy_inside": Curve(ends, np.array([0.2, 0.8])),
        "peaks_inside": Curve(ends, np.array([np.nan, np.nan])),
    }
    _, found, moved = charts(seen, trends)
    assert (found["title"], found["chance"], found["share"]) == ("Heat", 0.25, True)
    assert [(line["name"], line["main"]) for line in found["lines"]] == [
        ("heat on the object", [[0, 10_000], [0.2, 0.8]])
    ]
    assert [line["name"] for line in moved["lines"]] == ["the previous", "the final ones"]
    assert moved["lines"][0]["main"] == [[10_000], [0.5]]
    assert (moved["chance"], moved["axis"]["low"], moved["axis"]["high"]) == (None, 0.0, 1.5)
    only_one = replace(seen, steps=ends[:1], maps=seen.maps[:1], best=seen.best[:1])
    assert [chart["title"] for chart in charts(only_one, trends)] == ["Accuracy", "Heat"]


def test_long_curves_become_few_points_and_keep_their_extremes():
    values = rough()
    values[[1234, 7777]] = 9.0, -3.0
    (line,) = charts(recording(loss=values), {})[0]["lines"]
    for steps, points in (line["raw"], line["main"]):
        assert len(steps) == len(points) <= 1000
        assert steps == sorted(set(steps))
    assert (max(line["raw"][1]), min(line["raw"][1])) == (9.0, -3.0)
    assert dict(zip(*line["raw"], strict=True))[1235] == 9.0
    assert max(line["main"][1]) < 2.1


def test_no_value_of_a_validation_loss_is_cut_off():
    (chart,) = [
        c for c in charts(recording(loss=rough(), val_loss=np.array([1.6, 1.6, 3.64, 2.1])), {}) if c["title"] == "Loss"
    ]
    assert chart["axis"]["high"] >= 3.64
    assert [line["beyond"] for line in chart["lines"]] == [[], []]


def test_single_values_that_are_cut_off_are_marked():
    values = rough()
    values[1234] = 90.0
    (line,) = (chart := charts(recording(loss=values), {})[0])["lines"]
    assert chart["axis"]["high"] < 3
    assert line["beyond"] == [(1235, 90.0)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_no_number_any_more(bad):
    values = rough()
    values[6000:] = bad
    (chart, _) = charts(recording(loss=values), {})
    (line,) = chart["lines"]
    assert line["lost"] == 6001
    assert line["raw"][0][-1] == line["main"][0][-1] == 6000
    json.dumps(chart, allow_nan=False)
    values[100:200], values[-1] = bad, 1.0
    assert charts(recording(loss=values), {})[0]["lines"][0]["lost"] is None
