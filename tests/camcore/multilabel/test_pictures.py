"""Label masks lie on their pictures pixel by pixel, and read back as what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import explanation, values
from PIL import Image

from camcore import Explanation, InputError, label_mask
from camcore.multilabel.pictures import IGNORED, label_picture
from camcore.multilabel.together import PALETTE, ClassColors
from camcore.pictures import Picture


def pictured(view: tuple[float, float, float, float], **changes: Any) -> Explanation:
    pixels = np.zeros((30, 50, 3), np.uint8)
    return explanation(images=1, classes=3, pictures=[Picture(pixels, "p")], views=[view], **changes)


def test_what_the_network_did_not_see_is_no_background() -> None:
    out = pictured((10.2, 0, 39.9, 30))
    found = label_picture(out, 0)
    assert found.pixels.shape == (30, 50)
    assert found.pixels.dtype == np.uint8
    outside = found.pixels == IGNORED
    assert outside[:, :10].all()
    assert outside[:, 40:].all()
    assert not outside[:, 10:40].any()
    expected = label_mask(out.heatmaps((30, 30), normalization="relu-max")[0], out.classes[0])
    np.testing.assert_array_equal(found.pixels[:, 10:40], expected)


def test_without_a_picture_it_is_of_the_size_of_the_input() -> None:
    out = explanation(classes=3)
    for n in range(2):
        expected = label_mask(out.heatmaps(normalization="relu-max")[n], out.classes[n], threshold=0.3)
        np.testing.assert_array_equal(label_picture(out, n, threshold=0.3).pixels, expected)


@pytest.mark.parametrize(("classes", "by_index"), [(254, True), (255, False), (1000, False)])
def test_the_numbers(classes: int, by_index: bool) -> None:
    """A class has its index + 1 as long as all fit below 255."""
    given = {"scores": values(1, classes), "classes": np.array([[classes - 1, 7, 3]])}
    out = replace(pictured((0, 0, 50, 30)), **given)
    found = label_picture(out, 0)
    numbers = [classes, 8, 4] if by_index else [1, 2, 3]
    assert found.classes == dict(zip(numbers, [classes - 1, 7, 3], strict=True))
    assert set(np.unique(found.pixels)) <= {0, *numbers}
    assert len(np.unique(found.pixels)) > 2


def test_the_file_holds_the_numbers_and_the_colours(tmp_path: Path) -> None:
    found = label_picture(pictured((5, 0, 50, 30)), 0)
    assert found.save(tmp_path / "mask.png") == tmp_path / "mask.png"
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), found.pixels)
        colors = np.asarray(picture.convert("RGB"))
    for number, color in {**found.colors, 0: (0, 0, 0), IGNORED: (224, 224, 224)}.items():
        assert (colors[found.pixels == number] == color).all()
    assert [*found.colors.values()] == [*PALETTE[:3]]


def test_a_class_has_the_same_colour_in_all_pictures() -> None:
    out, colors = explanation(classes=2), ClassColors()
    held = [label_picture(out, n, colors=colors).colors for n in (0, 1, 0)]
    assert held[0] == held[2]
    assert all(held[0][number] == held[1][number] for number in held[0].keys() & held[1].keys())


def test_of_no_class_all_is_background() -> None:
    out = replace(pictured((0, 0, 50, 30)), maps=np.zeros((1, 0, 4, 6), np.float32), classes=np.zeros((1, 0), np.int64))
    found = label_picture(out, 0)
    assert not found.pixels.any()
    assert found.classes == found.colors == {}


def test_a_score_that_leaves_nothing() -> None:
    with pytest.raises(InputError, match="threshold is 1; expected the score of the background"):
        label_picture(pictured((0, 0, 50, 30)), 0, threshold=1)
