from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from recordings import equal, recording, without_frames

from camcore.errors import InputError
from camcore.normalize import normalize, rectify
from camcore.recording import Curve
from camcore.resize import resize


def test_curve_has_the_last_value_up_to_a_step() -> None:
    curve = Curve(np.array([2, 5, 9]), np.array([0.5, 0.25, 0.125]))
    assert np.isnan(curve.at(1))
    assert [curve.at(step) for step in (2, 4, 5, 8, 9, 100)] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_length_and_total() -> None:
    whole = recording()
    assert len(whole) == 4
    assert whole.total == 39  # the loss was logged longer than there are frames
    assert replace(whole, curves={}).total == 30
    assert without_frames(whole).total == 0


def test_right_answers() -> None:
    whole = recording()
    expected = [[b == c for b, c in zip(row, whole.classes, strict=True)] for row in whole.best]
    np.testing.assert_array_equal(whole.right, expected)


def test_labels() -> None:
    whole = recording()
    assert [whole.label(n) for n in (0, 1, 2, -1)] == ["cap", "Würfel", "玩具", "no class"]
    assert replace(whole, labels=None).label(7) == "class 7"
    assert replace(whole, labels=None).label(-1) == "no class"


@pytest.mark.parametrize("rectifies", [True, False])
def test_heatmaps(rectifies: bool) -> None:
    whole = replace(recording(), rectifies=rectifies)
    raw = rectify(whole.maps[2]) if rectifies else whole.maps[2]
    np.testing.assert_array_equal(whole.heatmaps(2), normalize(resize(raw, (8, 9))))
    assert whole.heatmaps(2, (20, 30)).shape == (3, 20, 30)
    assert whole.heatmaps(2).max() <= 1


def test_heatmaps_of_what_is_no_number() -> None:
    maps = recording().maps.copy()
    maps[0, 0], maps[0, 1, 2, 2] = np.nan, np.inf
    heat = replace(recording(), maps=maps).heatmaps(0)
    assert np.isfinite(heat).all()
    assert not heat[0].any()
    assert heat[1].max() == 1


def test_some_frames() -> None:
    whole = recording()
    some = whole.frames([0, -1])
    assert some.steps.tolist() == [0, 30]
    np.testing.assert_array_equal(some.maps, whole.maps[[0, 3]])
    assert some.curves == whole.curves
    for wrong in ([], [4], [-5], [[0]]):
        with pytest.raises(InputError, match="expected numbers of frames, 0 to 3"):
            whole.frames(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 2, 5, 19, 20, 100])
def test_thinned(most: int) -> None:
    whole = recording(frames=20)
    thin = whole.thinned(most)
    assert len(thin) == min(max(most, 2), 20)
    assert (thin.steps[0], thin.steps[-1]) == (0, 190)
    gaps = np.diff(thin.steps)
    assert gaps.max() - gaps.min() <= 10


def test_some_pictures() -> None:
    whole = recording()
    some = whole.pick([2, 0])
    assert some.names == ("picture <2>", "picture <0>")
    assert some.masks is not None
    assert whole.masks is not None
    for name in ("maps", "probabilities", "best"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[:, [2, 0]])
    for name in ("classes", "pictures", "masks"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[2, 0]])
    bare = replace(whole, masks=None, names=())
    assert (bare.pick([1]).masks, bare.pick([1]).names) == (None, ())
    assert equal(some.pick([1, 0]), whole.pick([0, 2]))
    for wrong in ([], [3], [-4]):
        with pytest.raises(InputError, match="expected numbers of pictures, 0 to 2"):
            whole.pick(wrong)
