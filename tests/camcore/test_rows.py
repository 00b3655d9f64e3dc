"""Rows: a bad image is a row with its error; what no image could change is raised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, values

from camcore import Explainer, InputError, MethodNotPossible
from camcore.rows import RowExplainer, Rows

NAMES = ("tench", "tabby", "lynx", "crane", "otter")


def rows_of(classes: Any = None, **options: Any) -> RowExplainer:
    return RowExplainer(Explainer(PooledNetwork(), **options), classes)


@pytest.mark.parametrize("classes", [None, "top2", "all", 3, "lynx"])
def test_as_the_explainer_gives_them(classes: Any) -> None:
    images, session = values(3, 3, 4, 5), rows_of(classes, labels=NAMES)
    assert session.facts(images.shape[1:]).class_names == NAMES
    found, out = session(images), session.explainer(images, classes)
    np.testing.assert_array_equal(found.maps, out.maps)
    np.testing.assert_array_equal(found.classes, out.classes)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(out.scores, out.classes, 1))
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(out.probabilities, out.classes, 1), rtol=1e-6)
    assert found.errors == ["", "", ""]


@pytest.mark.parametrize(("classes", "expected"), [([3, 0], [3, 0]), (["lynx", "otter", "tench"], [2, 4, 0])])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_names_the_classes_of_each_image(classes: Any, expected: list[int], count: int) -> None:
    found = rows_of(classes, labels=NAMES)(values(count, 3, 4, 5))
    np.testing.assert_array_equal(found.classes, [expected] * count)


def test_a_bad_image_is_a_row_with_its_error() -> None:
    images, session = values(4, 3, 4, 5), rows_of()
    good = session(images)
    images[2, 0, 1, 1:3] = np.nan
    found = session(images)
    assert found.errors == ["", "", "the image has 2 pixels that are NaN or infinite", ""]
    np.testing.assert_allclose(found.maps[[0, 1, 3]], good.maps[[0, 1, 3]], rtol=1e-6)
    assert np.isnan(found.maps[2]).all()
    assert np.isnan(found.scores[2]).all()
    assert found.classes[2] == -1


def test_nothing_but_bad_images() -> None:
    found = rows_of()(np.full((2, 3, 4, 5), np.inf, np.float32))
    assert found.errors == ["the image has 60 pixels that are NaN or infinite"] * 2


def test_a_lost_model_is_no_error_of_the_images() -> None:
    class Lost(PooledNetwork):
        def scores(self, images: np.ndarray) -> np.ndarray:
            if len(self.batches) > 1:
                raise InputError("ONNX Runtime could not run images: the device is gone")
            return super().scores(images)

    session = RowExplainer(Explainer(Lost()))
    session.facts((3, 4, 5))
    with pytest.raises(InputError, match="the device is gone"):
        session(values(3, 3, 4, 5))


@pytest.mark.parametrize(
    ("classes", "options", "error"),
    [
        (7, {}, "class 7 is out of range"),
        ("cat", {}, "class 'cat' is a name, but the model has no class names"),
        (None, {"labels": NAMES[:4]}, "4 class names were given, the model has 5 classes"),
        (None, {"method": "gradcam", "layer": "images"}, "gradients"),
    ],
)
def test_what_no_image_could_change_is_raised(classes: Any, options: Any, error: str) -> None:
    with pytest.raises((InputError, MethodNotPossible), match=error):
        rows_of(classes, **options)(values(2, 3, 4, 5))


def test_no_images() -> None:
    found = rows_of("top2")(values(0, 3, 4, 5))
    assert found.maps.shape == (0, 2, 4, 5)


def test_rows_are_put_into_others() -> None:
    rows = Rows.empty((1, 2, 2), ["missing", "", "broken"])
    one = Rows(np.ones((1, 1, 2, 2), np.float32), np.array([[4]]), *np.ones((2, 1, 1), np.float32), [""])
    rows.put([1], one)
    assert rows.errors == ["missing", "", "broken"]
    np.testing.assert_array_equal(rows.classes[:, 0], [-1, 4, -1])
    assert np.isnan(rows.maps[[0, 2]]).all()
