"""Columns of images, in all the forms that engines give them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, values
from PIL import Image

from camcore import Explainer, InputError
from camcore.columns import as_columns, image_shape, read_images

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)


def explainer(space: tuple[int | None, ...] = (8, 8), **options: Any) -> Explainer:
    return Explainer(PooledNetwork(space=space), **{"preprocess": "unit", **options})


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def objects(items: list[Any]) -> np.ndarray:
    column = np.empty(len(items), object)
    column[:] = items
    return column


def test_floats_are_taken_as_they_are() -> None:
    images = values(2, 3, 8, 8)
    found = read_images(images, explainer())
    assert found.values is images
    assert (found.places, found.errors) == ([0, 1], ["", ""])


@pytest.mark.parametrize("form", ["dense", "objects", "bytes", "paths", "list", "PIL", "bytes array"])
def test_pictures_in_any_form(form: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        path.write_bytes(encoded(pixels))
    column: Any = {
        "dense": PIXELS,
        "objects": objects(list(PIXELS)),
        "bytes": objects([encoded(p) for p in PIXELS]),
        "paths": np.array([str(p) for p in paths]),
        "list": [str(p) for p in paths],
        "PIL": objects([Image.fromarray(p) for p in PIXELS]),
        "bytes array": np.array([encoded(p) for p in PIXELS]),
    }[form]
    ex = explainer()
    found = read_images(column, ex)
    expected = np.stack([ex.rule(p)[0] for p in PIXELS])
    np.testing.assert_array_equal(found.values, expected)


def test_pictures_of_several_sizes_grey_ones_and_none(tmp_path: Path) -> None:
    column = objects(
        [PIXELS[0], None, PIXELS[1, :5], PIXELS[2, ..., 0], float("nan"), str(tmp_path / "no.png"), b"x", 5]
    )
    found = read_images(column, explainer())
    assert found.values.shape == (3, 3, 8, 8)
    assert found.places == [0, 2, 3]
    assert found.errors[1] == found.errors[4] == "no image in this row"
    assert "no.png: no such file" in found.errors[5]
    assert "not a picture that can be read" in found.errors[6]
    assert "a picture cannot be of type int" in found.errors[7]


def test_float_arrays_one_by_one() -> None:
    column = objects([values(3, 8, 8), values(3, 9, 8), values(3, 8, 8).astype(np.float64), np.zeros((3, 8, 8), int)])
    found = read_images(column, explainer(preprocess=None))
    assert found.places == [0, 2]
    assert found.values.dtype == np.float32
    assert found.errors[1] == "the image has shape (3, 9, 8); expected (3, 8, 8)"
    assert "int64; expected floats" in found.errors[3]


def test_where_the_model_takes_any_size_the_first_counts() -> None:
    column = objects([values(3, 5, 6), values(3, 5, 6), values(3, 6, 6)])
    found = read_images(column, explainer((None, None), preprocess=None))
    assert found.values.shape == (2, 3, 5, 6)


@pytest.mark.parametrize(
    ("column", "options", "error"),
    [
        (np.zeros((2, 3, 8, 8), np.int64), {}, "an array .* of int64; expected floats"),
        (np.zeros((2, 8), np.float32), {}, r"an array \(2, 8\) of float32"),
        (PIXELS, {"preprocess": None}, "the model does not say how pictures become its input; give preprocess="),
        (PIXELS, {"preprocess": {"resize": "none"}}, "resize 'none' leaves each picture its own size"),
    ],
)
def test_what_is_wrong_with_all_rows_is_raised(column: Any, options: Any, error: str) -> None:
    with pytest.raises(InputError, match=error):
        read_images(column, explainer(**options))


def test_read_only_views_are_left_alone() -> None:
    pixels = PIXELS.copy()
    pixels.flags.writeable = False
    read_images(pixels, explainer())
    np.testing.assert_array_equal(pixels, PIXELS)


@pytest.mark.parametrize(
    ("space", "options", "shape"),
    [
        ((8, 6), {}, (3, 8, 6)),
        ((None, None), {}, (3, 224, 224)),
        ((None, None), {"preprocess": {"size": (9, 7)}}, (3, 9, 7)),
        ((None, None), {"preprocess": None}, None),
        ((None, None), {"preprocess": {"resize": "none"}}, None),
        ((4, 4, 4), {"preprocess": None}, (3, 4, 4, 4)),
    ],
)
def test_the_shape_of_what_goes_into_the_model(space: Any, options: Any, shape: Any) -> None:
    assert image_shape(explainer(space, **options)) == shape


class TestColumns:
    def test_rows_of_a_loader(self) -> None:
        found = as_columns([{"image": "a", "id": 1}, {"image": "b", "id": 2}], "image")
        assert list(found["image"]) == ["a", "b"]
        np.testing.assert_array_equal(found["id"], [1, 2])

    def test_images_alone(self) -> None:
        found = as_columns([PIXELS[0], PIXELS[1, :4]], "image")
        assert found["image"].dtype == object
        assert found["image"][1] is not None

    def test_a_missing_column(self) -> None:
        with pytest.raises(InputError, match=r"no column 'image'\. Did you mean 'images'\? Give column="):
            as_columns({"images": PIXELS}, "image")

    def test_something_else(self) -> None:
        with pytest.raises(InputError, match="a batch is of type ndarray; expected a dict"):
            as_columns(PIXELS, "image")
