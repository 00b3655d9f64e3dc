"""Which epoch is the best, and when there should be no further one."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from camcore_tools.training.history import Epoch, as_csv, best_of, reason_to_stop
from camcore_tools.training.settings import Settings

from camcore.errors import InputError


def rows(*pairs: tuple[float, float], loss: float = 1.0) -> list[Epoch]:
    """Epochs of (top-1, validation loss)."""
    return [Epoch(n, 4 * n, 0.1, loss, None, v, t, t, 1.0, 0.5) for n, (t, v) in enumerate(pairs, start=1)]


@pytest.mark.parametrize(
    ("pairs", "best"),
    [
        ([(0.5, 1.0), (0.75, 2.0), (0.5, 0.5)], 2),  # top-1 before loss
        ([(0.5, 1.0), (0.5, 0.75), (0.5, 0.9)], 2),  # then the loss
        ([(0.5, 1.0), (0.5, 1.0)], 1),  # then the first
    ],
)
def test_the_best_epoch(pairs: list[tuple[float, float]], best: int) -> None:
    found = best_of(rows(*pairs))
    assert found is not None
    assert found.epoch == best
    assert best_of([]) is None


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([(0.5, 1.0), (0.5, 1.0), (0.5, 1.0)], "patience"),
        ([(0.5, 1.0), (0.5, 1.0), (0.6, 2.0)], None),  # a higher top-1 is progress
        ([(0.5, 1.0), (0.4, 0.9), (0.4, 1.0)], None),  # so is a lower loss
        ([(0.5, 1.0), (0.4, 0.9), (0.4, 1.0), (0.5, 0.9)], "patience"),  # an equal one is not
    ],
)
def test_patience(pairs: list[tuple[float, float]], reason: str | None) -> None:
    assert reason_to_stop(rows(*pairs), Settings(epochs=9, patience=2)) == reason
    assert reason_to_stop(rows(*pairs), Settings(epochs=9)) is None


def test_a_validation_loss_far_above_the_training_loss() -> None:
    settings = Settings(epochs=9, stop_ratio=2.0)
    assert reason_to_stop(rows((0.5, 2.0)), settings) is None
    assert reason_to_stop(rows((0.5, 2.01)), settings) == "stop_ratio"


def test_all_epochs_done_is_the_first_reason() -> None:
    assert reason_to_stop(rows((0.5, 9.0)), Settings(epochs=1, stop_ratio=2.0, patience=1)) == "epochs"


def test_rows_survive_json_to_the_last_bit() -> None:
    row = Epoch(3, 12, 0.1 / 3, 1 / 3, 2 / 7, 1e-17, 1 / 7, 0.5, 1.0, 0.123456789012345)
    assert Epoch.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("damage", [{"top1": "x"}, {"top1": float("nan")}, {"loss": None}])
def test_a_damaged_row(damage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a row of the history of the training cannot be read"):
        Epoch.from_json(rows((0.5, 1.0))[0].to_json() | damage)
    with pytest.raises(InputError, match="KeyError"):
        Epoch.from_json({})


def test_the_table_has_a_column_for_recam_where_it_was_trained_with() -> None:
    (plain,) = rows((0.5, 1 / 3))
    recam = Epoch(**{**plain.to_json(), "recam_loss": 0.25})
    assert "recam_loss" not in as_csv([plain])
    (read,) = csv.DictReader(io.StringIO(as_csv([recam])))
    assert {name: float(text) for name, text in read.items()} == pytest.approx(recam.to_json(), rel=1e-7)
