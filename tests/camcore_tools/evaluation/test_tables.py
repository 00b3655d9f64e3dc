"""Tables for a terminal: aligned, never wider than it, and with the rows that matter."""

from __future__ import annotations

from typing import Any

import pytest
from camcore_tools.evaluation.tables import print_evaluation, table


def test_names_are_cut_where_numbers_need_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = table(["class", "n"], [["long " * 30, "12"], ["\x1b[31mred", "3"]]).splitlines()
    assert max(map(len, lines)) == 40
    assert lines[1].endswith("…  12")
    assert "\x1b" not in "".join(lines)
    assert [line[-1] for line in lines] == ["n", "2", "3"]


def document(classes: int, epochs: int) -> dict[str, Any]:
    per_class = [
        {
            "name": f"class {n}",
            "count": 3,
            "precision": None,
            "recall": n / classes,
            "f1": n / classes,
            "taken_for": None,
        }
        for n in range(classes)
    ]
    return {
        "run": "run",
        "folder": "run/evaluation",
        "pictures": 3 * classes,
        "classes": [row["name"] for row in per_class],
        "checkpoints": [
            {"epoch": n, "loss": None, "top1": 0.5, "top3": 0.7, "top5": 1.0} for n in range(1, epochs + 1)
        ],
        "checkpoint": 17,
        "macro": {"precision": None, "recall": 0.5, "f1": 0.5},
        "per_class": per_class,
        "localisation": None,
        "left_out": {},
        "files": ["eval.json"],
    }


def test_of_many_epochs_and_classes_the_chosen_and_the_lowest_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(document(100, 200))
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split()[1] for line in lines if line.startswith("  epoch ")]
    assert {"1", "17", "200"} <= set(epochs)
    assert len(epochs) <= 13
    assert f"  {200 - len(epochs)} more are in eval.json" in lines
    assert [line.split()[1] for line in lines if line.startswith("  class ")][1:] == [str(n) for n in range(24)]
    assert "  the 24 lowest of 100; all are in eval.json" in lines
    assert any("mean of classes" in line and "–" in line for line in lines)


def test_all_of_few_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(document(3, 2))
    out = capsys.readouterr().out
    assert "more are in" not in out
    assert "lowest of" not in out
    assert "–" in out  # a loss that is no number


def test_what_lies_on_the_object_is_called_heat_as_in_the_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"peaks": 1.0, "right_peaks": 1.0, "energy": 0.625, "iou": 0.4, "best_iou": 0.5, "best_threshold": 0.3}
    found = {"pictures": 3, "threshold": 0.5, "by_chance": 0.25, "methods": {"cam": row}}
    print_evaluation(document(2, 20) | {"localisation": found})
    lines = capsys.readouterr().out.splitlines()
    head = next(n for n, line in enumerate(lines) if "IoU" in line)
    assert lines[head].index("heat") + len("heat") == lines[head + 1].index("62.5%") + len("62.5%")
