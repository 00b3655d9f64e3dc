"""Loss and accuracy over the epochs, drawn."""

from __future__ import annotations

import numpy as np
import pytest
from camcore_tools.evaluation.curves import curves_picture
from camcore_tools.evaluation.scoring import Score
from camcore_tools.training.history import Epoch

from camcore.films.theme import LOSSES, SHARES


def rows(*epochs: int, loss: float = 1.0) -> tuple[list[Score], list[Epoch]]:
    scores = [Score(n, loss / n, 0.1 * n, 0.2 * n, 0.3 * n) for n in epochs]
    return scores, [Epoch(n, 10 * n, 0.1, 2 / n, None, loss / n, 0.1 * n, 0.2 * n, 0.3 * n, 1.0) for n in epochs]


def has(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=2).any())


def test_both_losses_and_the_accuracies_are_drawn() -> None:
    scores, history = rows(1, 2, 3)
    picture = curves_picture(scores, history, classes=20)
    assert all(has(picture, color) for color in (*LOSSES[:2], *SHARES[:3]))
    assert not has(curves_picture(scores, [], classes=20), LOSSES[1])


def test_the_best_k_of_k_classes_are_no_news() -> None:
    scores, history = rows(1, 2, 3)
    assert not has(curves_picture(scores, history, classes=5), SHARES[2])
    assert not has(curves_picture(scores, history, classes=3), SHARES[1])
    assert has(curves_picture(scores, history, classes=2), SHARES[0])


@pytest.mark.parametrize("loss", [1.0, float("nan"), float("inf"), 1e30])
def test_one_epoch_and_odd_losses_are_drawn_too(loss: float) -> None:
    scores, history = rows(4, loss=loss)
    assert curves_picture(scores, history, classes=20).shape[1] == 1280
