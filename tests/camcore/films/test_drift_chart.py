"""The chart of how maps moved: one panel, or two where the objects are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drifting import drifting
from PIL import Image

from camcore.errors import InputError
from camcore.films.drift_chart import drift_chart, save_drift_chart
from camcore.films.theme import LOSSES, PANEL, SHARES
from camcore.recording import Curve


def amount(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def test_two_panels_with_masks_and_one_without() -> None:
    two, one = drift_chart(drifting()), drift_chart(drifting(masks=None))
    assert two.shape[1] == one.shape[1] == 1200
    middle = [(picture[picture.shape[0] // 2, 590:610] == PANEL).all(axis=1).sum() for picture in (two, one)]
    assert middle[0] < 10 < middle[1]
    for color in (SHARES[3], LOSSES[1]):
        assert amount(two, color) > 50
        assert amount(one, color) > 50
    assert amount(two[60:, 600:], SHARES[1]) > 50 > amount(one[60:, 600:], SHARES[1]) == 0


def test_it_shows_the_trends_that_are_given() -> None:
    recording = drifting(masks=None)
    flat = {name: Curve(recording.steps, np.zeros(6)) for name in ("drift_previous", "drift_final")}
    assert not np.array_equal(drift_chart(recording), drift_chart(recording, trends=flat))


@pytest.mark.parametrize("frames", [1, 2, 200])
def test_any_number_of_frames(frames: int) -> None:
    assert drift_chart(drifting(frames=frames), width=500).shape[1] == 500


def test_objects_that_are_not_known() -> None:
    recording = drifting(masks=np.zeros((3, 4, 4), bool))
    assert drift_chart(recording).shape == drift_chart(drifting()).shape


def test_it_becomes_a_file(tmp_path: Path) -> None:
    save_drift_chart(tmp_path / "drift.png", drifting(), width=640)
    with Image.open(tmp_path / "drift.png") as image:
        np.testing.assert_array_equal(np.asarray(image), drift_chart(drifting(), width=640))


def test_a_width_that_is_too_small() -> None:
    with pytest.raises(InputError, match="width is 10; expected at least 240"):
        drift_chart(drifting(), width=10)
