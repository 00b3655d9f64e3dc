"""The picture of a confusion matrix: colours that mean something, and a size that fits the number of classes."""

from __future__ import annotations

import numpy as np
import pytest
from camcore_tools.evaluation.confusion import confusion_picture

from camcore.films.theme import LOSSES, PANEL, SHARES


def shades(picture: np.ndarray, least: int = 1) -> set[tuple[int, ...]]:
    """The colours of so many pixels at least."""
    packed, counts = np.unique(picture.astype(np.int64) @ [65536, 256, 1], return_counts=True)
    return {(c >> 16, c >> 8 & 255, c & 255) for c in packed[counts >= least].tolist()}


def test_right_answers_are_blue_and_wrong_ones_orange() -> None:
    right = shades(confusion_picture(np.diag([4, 4]), ["a", "b"]))
    assert SHARES[0] in right
    assert PANEL in right
    assert LOSSES[0] not in right
    wrong = shades(confusion_picture(np.array([[0, 4], [4, 0]]), ["a", "b"]))
    assert LOSSES[0] in wrong
    assert SHARES[0] not in wrong


def test_a_cell_is_as_bright_as_its_share_of_the_row() -> None:
    confusion = np.array([[90, 10], [1, 99]])
    cells = shades(confusion_picture(confusion, ["a", "b"]), least=4000)
    assert len(cells) == 5  # of the ground, and of four cells with four shares
    assert shades(confusion_picture(confusion * 10, ["a", "b"]), least=4000) == cells


@pytest.mark.parametrize("count", [1, 2, 5, 17, 100, 300])
def test_every_number_of_classes_has_a_picture_that_is_neither_tiny_nor_huge(count: int) -> None:
    names = [f"class number {n}" for n in range(count)]
    picture = confusion_picture(np.eye(count, dtype=np.int64) * 7, names)
    assert picture.dtype == np.uint8
    assert 200 < min(picture.shape[:2]) <= max(picture.shape[:2]) < 1800


def test_names_of_any_script_and_length_leave_the_matrix_its_room() -> None:
    confusion = np.array([[3, 1], [0, 0]])
    short = confusion_picture(confusion, ["a", "b"])
    long = confusion_picture(confusion, ["帽子 " * 40, "\x1b[31mcrème brûlée, a dessert"])
    assert long.shape[1] < short.shape[1] + 250
    assert not np.array_equal(long[:, :100], short[:, :100])


def test_a_class_without_pictures_is_an_empty_row() -> None:
    assert SHARES[0] not in shades(confusion_picture(np.zeros((2, 2), np.int64), ["a", "b"]))


def test_a_name_that_no_font_has_is_a_number() -> None:
    unknown, numbered = ["\U00013000\U00013001", "b"], ["class 0", "b"]
    np.testing.assert_array_equal(
        *(confusion_picture(np.eye(2, dtype=np.int64), names) for names in (unknown, numbered))
    )
