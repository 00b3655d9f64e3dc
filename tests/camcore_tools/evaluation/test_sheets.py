"""Sheets of pictures with heat: frames that say right or wrong, and methods side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from camcore_tools.evaluation.sheets import save_methods, save_sheets
from tiny_training import CLASSES, RULE, pictures, tiny

import camcore
from camcore.explanation import Explanation
from camcore.pictures import Picture, load_picture

GREEN, RED = (34, 160, 90), (220, 38, 52)


@pytest.fixture(scope="module")
def explained() -> dict[str, Explanation]:
    drawn = pictures(5, seed=0)
    shown = [Picture(pixels, name) for pixels, name in zip(drawn.images, drawn.names, strict=True)]
    options = {"labels": CLASSES, "preprocess": RULE}
    return {m: camcore.explainer(tiny(), method=m, **options)(shown[:14]) for m in ("cam", "layercam")}


def count(path: Path, color: tuple[int, int, int]) -> int:
    """Pixels of about a colour: frames are scaled with their pictures."""
    return int((np.abs(load_picture(path).pixels.astype(int) - color) < 15).all(axis=2).sum())


def test_frames_are_green_where_the_network_is_right_and_red_where_it_is_wrong(
    explained: dict[str, Explanation], tmp_path: Path
) -> None:
    out = explained["cam"]
    best = out.scores.argmax(axis=1)
    right = save_sheets(tmp_path, "right", out, best.tolist())
    wrong = save_sheets(tmp_path, "wrong", out, ((best + 1) % 3).tolist())
    assert [path.name for path in right] == ["right-grid.png", "right-compact.png", "right-strip.png"]
    for n in range(3):
        assert count(right[n], GREEN) > 200 > count(right[n], RED)
        assert count(wrong[n], RED) > 200 > count(wrong[n], GREEN)


def test_a_strip_says_the_true_classes(explained: dict[str, Explanation], tmp_path: Path) -> None:
    out = explained["cam"]
    best = out.scores.argmax(axis=1)
    one, other = (load_picture(save_sheets(tmp_path, "x", out, ((best + n) % 3).tolist())[2]).pixels for n in (1, 2))
    rows = np.nonzero((one != other).any(axis=(1, 2)))[0]  # all are wrong, so only the names of the true classes differ
    assert len(rows)
    assert rows.min() > 180


def test_names_of_methods_stand_at_the_edge_and_captions_are_large(
    explained: dict[str, Explanation], tmp_path: Path
) -> None:
    few = {name: out[:5] for name, out in explained.items()}
    sheet = load_picture(save_methods(tmp_path / "few.png", few, [0] * 5)).pixels
    rows, columns = np.nonzero((sheet < 100).all(axis=2))
    assert columns.min() < 25
    below = rows[(rows > 190) & (rows < 230) & (columns > 150)]  # the captions of the pictures as they are
    assert np.ptp(below) >= 17


def test_a_sheet_of_methods_has_a_row_each_and_no_more_than_twelve_pictures_in_it(
    explained: dict[str, Explanation], tmp_path: Path
) -> None:
    truth = [0] * 14
    both = load_picture(save_methods(tmp_path / "both.png", explained, truth)).pixels
    one = load_picture(save_methods(tmp_path / "one.png", {"cam": explained["cam"]}, truth)).pixels
    few = {name: out[:5] for name, out in explained.items()}
    small = load_picture(save_methods(tmp_path / "few.png", few, truth[:5])).pixels
    assert both.shape[0] == pytest.approx(1.5 * one.shape[0], rel=0.02)  # the pictures, and two rows instead of one
    assert both.shape[0] == pytest.approx(2 * small.shape[0], rel=0.02)  # 14 pictures in two bands of 7
    assert both.shape[1] == pytest.approx(small.shape[1] * 7.7 / 5.7, rel=0.02)  # with the names in front


def test_the_style_is_that_of_other_overlays(explained: dict[str, Explanation], tmp_path: Path) -> None:
    out, truth = explained["cam"], [0] * 14
    jet = load_picture(save_sheets(tmp_path, "jet", out, truth)[1]).pixels
    grey = load_picture(save_sheets(tmp_path, "grey", out, truth, cmap="gray", alpha=1.0)[1]).pixels
    inside = np.s_[40:120, 40:120]
    assert np.ptp(grey[inside], axis=2).max() == 0 < np.ptp(jet[inside], axis=2).max()
