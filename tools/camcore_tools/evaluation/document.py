"""What ``eval.json`` holds: plain numbers, and null where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.accuracy import ClassFigures
from camcore.explanation import Explanation
from camcore.scores import top_k
from camcore_tools.evaluation.localisation import Localisation
from camcore_tools.evaluation.scoring import Score

__all__ = ["class_rows", "localisation_part", "macro", "picture_rows", "score_row"]

_FIGURES = ("precision", "recall", "f1")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def score_row(found: Score) -> dict[str, Any]:
    """The figures of a checkpoint."""
    return {name: value if name == "epoch" else _number(value) for name, value in asdict(found).items()}


def class_rows(
    figures: ClassFigures, confusion: NDArray[np.integer[Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The figures of each class, and what its pictures were taken for most often by mistake."""
    rows = []
    for n, name in enumerate(classes):
        numbers = {key: _number(float(getattr(figures, key)[n])) for key in _FIGURES}
        rows.append(
            {"name": name, "count": int(figures.count[n]), **numbers, "taken_for": _mistake(confusion[n], n, classes)}
        )
    return rows


def _mistake(row: NDArray[np.integer[Any]], own: int, classes: Sequence[str]) -> dict[str, Any] | None:
    others = np.where(np.arange(len(row)) == own, 0, row)
    most = int(others.argmax())
    return {"name": classes[most], "count": int(others[most])} if others[most] else None


def macro(figures: ClassFigures) -> dict[str, float | None]:
    """Means over the classes where they are known."""
    return {key: _mean(getattr(figures, key)) for key in _FIGURES}


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def localisation_part(
    found: Mapping[str, Localisation], *, threshold: float, by_chance: float, masks: str
) -> dict[str, Any]:
    """The figures of each method."""
    methods = {
        name: {
            "peaks": _number(one.peaks),
            "right_peaks": _number(one.right_peaks),
            "energy": _number(one.energy),
            "iou": _number(one.iou[threshold]),
            "best_iou": _number(one.iou[one.best_threshold]),
            "best_threshold": one.best_threshold,
        }
        for name, one in found.items()
    }
    pictures = max(one.pictures for one in found.values())
    return {
        "masks": masks,
        "pictures": pictures,
        "threshold": threshold,
        "by_chance": _number(by_chance),
        "methods": methods,
    }


def picture_rows(names: Sequence[str], truth: Sequence[int], out: Explanation, *, top: int = 3) -> list[dict[str, Any]]:
    """The chosen pictures: their true classes, and the best ones with their probabilities."""
    best, chances = top_k(out.scores, top), out.probabilities
    return [
        {
            "name": name,
            "class": out.label(truth[n]),
            "right": bool(best[n, 0] == truth[n]),
            "top": [{"class": out.label(int(c)), "probability": _number(float(chances[n, c]))} for c in best[n]],
        }
        for n, name in enumerate(names)
    ]
