"""What kind of curve a curve is."""

from __future__ import annotations

import numpy as np
import pytest

from camcore.films.curves import as_shares, is_rough
from camcore.recording import Curve


def curve(*values: float) -> Curve:
    return Curve(np.arange(len(values)), np.array(values, np.float64))


@pytest.mark.parametrize(
    "name", ["accuracy", "val_acc", "Top-5", "top1", "mIoU", "val iou", "F1", "energy_inside", "hits", "recall@5"]
)
def test_shares_are_known_by_their_names(name):
    given = curve(0.25, np.nan, 1.0)
    assert as_shares(name, given) is given
    percents = as_shares(name, curve(25, np.nan, 100))
    assert percents is not None
    assert np.array_equal(percents.values, given.values, equal_nan=True)


@pytest.mark.parametrize("name", ["learning_rate", "lr", "grad_norm", "momentum", "previous", "white", "f10"])
def test_numbers_of_another_name_are_no_shares(name):
    assert as_shares(name, curve(0.25, 1.0)) is None


@pytest.mark.parametrize("values", [(-0.1, 0.5), (50, 101), (np.nan,), ()])
def test_numbers_that_cannot_be_shares_are_none(values):
    assert as_shares("accuracy", curve(*values)) is None


def test_what_goes_up_and_down_is_rough():
    up_and_down = np.tile([0.0, 1.0], 30)
    assert is_rough(curve(*up_and_down))
    assert is_rough(curve(*(1e308 * up_and_down)))
    assert not is_rough(curve(*up_and_down[1:]))  # too few
    assert not is_rough(curve(*np.linspace(0, 1, 100), *np.linspace(1, 0, 100)))
    assert not is_rough(curve(*np.ones(100)))
    assert is_rough(curve(*up_and_down, np.nan, np.inf))
