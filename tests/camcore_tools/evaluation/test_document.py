"""The parts of eval.json: plain numbers, null where there is none."""

from __future__ import annotations

import json

import numpy as np
from camcore_tools.evaluation.document import class_rows, localisation_part, macro, score_row
from camcore_tools.evaluation.localisation import Localisation
from camcore_tools.evaluation.scoring import Score

from camcore.accuracy import class_figures

CONFUSION = np.array([[3, 1, 2], [0, 0, 0], [0, 0, 5]])


def test_each_class_has_its_figures_and_its_most_frequent_mistake() -> None:
    rows = class_rows(class_figures(CONFUSION), CONFUSION, ["a", "b", "c"])
    json.dumps(rows, allow_nan=False)
    assert [row["taken_for"] for row in rows] == [{"name": "c", "count": 2}, None, None]
    assert [row["recall"] for row in rows] == [0.5, None, 1.0]
    assert [row["count"] for row in rows] == [6, 0, 5]


def test_means_of_classes_are_of_those_that_are_known() -> None:
    found = macro(class_figures(CONFUSION))
    assert found["recall"] == 0.75
    assert macro(class_figures(np.zeros((2, 2), np.int64))) == {"precision": None, "recall": None, "f1": None}


def test_what_is_no_number_is_null() -> None:
    assert score_row(Score(3, float("nan"), 0.5, 1.0, 1.0)) == {
        "epoch": 3,
        "loss": None,
        "top1": 0.5,
        "top3": 1.0,
        "top5": 1.0,
    }
    one = Localisation(4, 0.5, float("nan"), 0.4, {0.4: 0.3, 0.5: 0.2})
    part = localisation_part({"cam": one}, threshold=0.5, by_chance=0.1, masks="masks")
    json.dumps(part, allow_nan=False)
    assert part["methods"]["cam"] == {
        "peaks": 0.5,
        "right_peaks": None,
        "energy": 0.4,
        "iou": 0.2,
        "best_iou": 0.3,
        "best_threshold": 0.4,
    }
