"""What a model takes, what it shows, and the check of what it is given."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from camcore import HeadNotFound, InputError, InputSpec, Layer, LinearHead, Tap
from camcore.evidence import accept_images, milestones

PICTURE = InputSpec("images", (None, 3, 8, None))


@pytest.mark.parametrize(
    ("shape", "channels", "size"),
    [
        ((None, 3, 224, 192), 3, (224, 192)),
        ((1, 1, None, 32), 1, None),
        ((None, None, 32, 32), None, (32, 32)),
        ((None, 3, 100), 3, None),
        ((None, 3, 8, 8, 8), 3, None),
        ((), None, None),
    ],
)
def test_channels_and_size_of_an_input(
    shape: tuple[int | None, ...], channels: int | None, size: tuple[int, int] | None
) -> None:
    spec = InputSpec("images", shape)
    assert (spec.channels, spec.size) == (channels, size)


def test_milestones_are_the_last_of_each_size_and_the_one_to_keep() -> None:
    sizes = {"a": 8, "b": 8, "c": 4, "d": 4, "e": 4, "f": 2}
    layers = [Layer(name, (channels, side, side)) for channels, (name, side) in enumerate(sizes.items())]
    assert [layer.name for layer in milestones(layers, "d")] == ["b", "d", "e", "f"]
    assert [layer.name for layer in milestones(layers, "f")] == ["b", "e", "f"]


def test_a_tap_gives_its_head_or_says_why_not() -> None:
    head = LinearHead.identity(3)
    assert Tap("x", head).need_head() is head
    with pytest.raises(HeadNotFound, match=r"^relu stands in the way$"):
        Tap("x", obstacle="relu stands in the way").need_head()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_good_batch_comes_back_as_it_is(dtype: type) -> None:
    images = np.ones((2, 3, 8, 5), dtype)
    assert accept_images(images, PICTURE) is images


def test_a_tensor_is_taken_also_with_gradients() -> None:
    images = torch.ones(2, 3, 8, 5, requires_grad=True)
    np.testing.assert_array_equal(accept_images(images, PICTURE), np.ones((2, 3, 8, 5)))


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 9, 9), (2, 3, 9, 9, 9)])
def test_without_a_known_shape_any_batch_is_taken(shape: tuple[int, ...]) -> None:
    assert accept_images(np.ones(shape), InputSpec("images", ())).shape == shape


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            np.zeros((2, 3, 8, 5), np.uint8),
            "images are uint8; expected floats as the model takes them, (N, 3, 8, any). "
            "For pictures give paths or PIL images with preprocess=...",
        ),
        (np.zeros((2, 3, 8, 5), int), "images are int64; expected floats as the model takes them, (N, 3, 8, any)."),
        (np.zeros((2, 3, 8, 5), complex), "images are complex128; expected floats"),
        (
            np.zeros((3, 8, 5)),
            "images have shape (3, 8, 5); the model takes (N, 3, 8, any). Add a batch axis: images[None].",
        ),
        (np.zeros((1, 2, 3, 8, 5)), "images have shape (1, 2, 3, 8, 5); the model takes (N, 3, 8, any)."),
        (np.zeros((0, 3, 8, 5)), "images have shape (0, 3, 8, 5); expected at least one image, (N, C, *S)"),
        (
            np.zeros((2, 1, 8, 5)),
            "images have 1 channels, the model takes 3: got (2, 1, 8, 5), expected (N, 3, 8, any)",
        ),
        (np.zeros((2, 8, 5, 3)), "images have 8 channels, the model takes 3: got (2, 8, 5, 3)"),
        (np.zeros((2, 3, 9, 5)), "images have length 9 on axis 2, the model takes 8: got (2, 3, 9, 5)"),
    ],
)
def test_a_bad_batch(images: Any, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        accept_images(images, PICTURE)


def test_a_vector_is_no_image_even_where_the_shape_is_not_known() -> None:
    with pytest.raises(InputError, match=r"images have shape \(2, 3\); expected at least one image, \(N, C, \*S\)"):
        accept_images(np.ones((2, 3)), InputSpec("images", ()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf, 1.0]])
def test_pixels_that_are_not_finite(bad: list[float], dtype: type) -> None:
    images = np.zeros((3, 3, 8, 5), dtype)
    images[1, 2, 3, : len(bad)] = bad
    images[2, 0, 0, 0] = np.nan  # the first bad image is named
    count = sum(not np.isfinite(b) for b in bad)
    text = rf"image 1 has {count} pixels that are NaN or infinite; replace them first \(np.nan_to_num\) or leave the"
    with pytest.raises(InputError, match=text):
        accept_images(images, PICTURE)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_so_large_that_their_sum_overflows_are_finite(dtype: type) -> None:
    images = np.full((2, 3, 8, 5), np.finfo(dtype).max, dtype)
    assert accept_images(images, PICTURE) is images
