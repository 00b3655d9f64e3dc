"""What a user gives, as what the engine works with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camcore import InputError
from camcore.inputs import as_list, fitting_names, is_array, layer_names, part_of

PICTURE = Image.fromarray(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.parametrize(
    ("images", "array"),
    [
        (np.zeros((1, 3, 4, 5)), True),
        (np.zeros((1, 3, 4, 5), np.uint8), True),  # a batch for a model that takes bytes
        (np.zeros((3, 4, 5)), True),  # refused later, with the advice to add an axis
        (np.zeros((4, 5, 3), np.uint8), False),
        (np.zeros((4, 5), np.uint8), False),
        (torch.zeros(1, 3, 4, 5), True),
        (PICTURE, False),
        ("cat.jpg", False),
        (Path("cat.jpg"), False),
        (["cat.jpg"], False),
        ([np.zeros((4, 5, 3), np.uint8)], False),
    ],
)
def test_a_batch_or_pictures(images: Any, array: bool) -> None:
    assert is_array(images) is array


@pytest.mark.parametrize("one", ["cat.jpg", b"cat", Path("cat.jpg"), PICTURE, None])
def test_one_picture_is_a_list_of_one(one: Any) -> None:
    assert as_list(one) == [one]
    assert as_list([one, one]) == as_list((one, one)) == [one, one]


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_pictures(nothing: Any) -> None:
    with pytest.raises(InputError, match="no images were given; expected at least one"):
        as_list(nothing)


@pytest.mark.parametrize("same", [None, "top5", "tabby", 3, np.int64(3), np.array(3)])
def test_classes_for_all_images_are_those_of_a_part(same: Any) -> None:
    assert part_of(same, 2, 2, 7) is same


def test_classes_of_a_part() -> None:
    assert part_of([4, 0, 1, 3], 1, 2, 4) == [0, 1]
    assert part_of(["a", "b", "c"], 2, 2, 3) == ["c"]
    rows = np.arange(8).reshape(4, 2)
    np.testing.assert_array_equal(part_of(rows, 2, 2, 4), rows[2:])


@pytest.mark.parametrize(("classes", "shape"), [([1, 2], (2,)), (np.zeros((1, 4), int), (1, 4)), ([], (0,))])
def test_classes_of_another_batch(classes: Any, shape: tuple[int, ...]) -> None:
    text = f"classes have shape {shape} for 4 images; expected an int, a list of 4 (one an image) or an array (4, T)"
    with pytest.raises(InputError, match=re.escape(text)):
        part_of(classes, 0, 2, 4)


def test_rows_of_different_lengths() -> None:
    text = "classes have rows of different lengths; give each image the same number of classes"
    with pytest.raises(InputError, match=text):
        part_of([[1, 2], [3]], 0, 2, 2)


@pytest.mark.parametrize(
    ("layer", "names"),
    [(None, (None,)), ("a", ("a",)), (["a"], ("a",)), (("a", "b"), ("a", "b")), ([None, "a"], (None, "a"))],
)
def test_layers(layer: Any, names: tuple[str | None, ...]) -> None:
    assert layer_names(layer) == names


@pytest.mark.parametrize("layer", [3, [], (), [3], ["a", 3], {"a": 1}, b"a", 0])
def test_what_is_no_layer(layer: Any) -> None:
    text = f"layer is {layer!r}; expected the name of a layer, or a list of names"
    with pytest.raises(InputError, match=re.escape(text)):
        layer_names(layer)


def test_names_that_fit_the_classes() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    assert fitting_names(None, 6) is None
    assert fitting_names(names, 6) == names
    assert fitting_names(names, 3) == ("a", "b", "c")  # a list that the model uses the beginning of
    assert fitting_names(names, 1) == ("a",)


@pytest.mark.parametrize("classes", [4, 5, 7, 1000])
def test_names_of_another_model(classes: int) -> None:
    text = f"6 class names were given, the model has {classes} classes; give one name a class .* a background class"
    with pytest.raises(InputError, match=text):
        fitting_names(("a", "b", "c", "d", "e", "f"), classes)
