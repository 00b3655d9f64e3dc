from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore.preprocess import Preprocess, preprocess
from camcore.recording.watched import watch


class Taker:
    """As much of a backend as says what it takes."""

    labels = preprocess = None
    kind, device, fixed, gives = "test", "cpu", True, frozenset[str]()

    def __init__(self, channels: int = 3, axes: int = 2) -> None:
        self.input = InputSpec("images", (None, channels, *[None] * axes))


def explainer(rule: Any = None, **takes: Any) -> Explainer:
    return Explainer(Taker(**takes), preprocess=rule)  # type: ignore[arg-type]


RNG = np.random.default_rng(0)
BATCH = RNG.standard_normal((3, 3, 10, 12)).astype(np.float32)


def files(folder: Path, sizes: Iterable[tuple[int, int]]) -> list[Path]:
    """Pictures, each with a bright square in its middle half."""
    paths = []
    for n, (height, width) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 255
        paths.append(folder / f"picture {n}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_arrays_are_stretched_for_the_eye() -> None:
    seen = watch(explainer(), BATCH)
    assert seen.pictures.shape == (3, 10, 12, 3)
    assert seen.pictures.min() == 0
    assert seen.pictures.max() == 255
    for image, picture in zip(BATCH, seen.pictures, strict=True):
        low, high = image.min(), image.max()
        expected = np.rint((image.transpose(1, 2, 0) - low) / (high - low) * 255)
        np.testing.assert_allclose(picture, expected, atol=1)
    assert (seen.names, seen.masks) == ((), None)


def test_arrays_of_other_channels_are_grey() -> None:
    seen = watch(explainer(channels=5), np.repeat(BATCH[:, :1], 5, axis=1))
    assert (seen.pictures == seen.pictures[..., :1]).all()
    assert not watch(explainer(), np.ones((1, 3, 4, 4))).pictures.any()


def test_arrays_are_copied() -> None:
    batch = BATCH.copy()
    seen = watch(explainer(), batch)
    batch[:] = 0
    np.testing.assert_array_equal(seen.images, BATCH)


def test_pictures_of_ones_own() -> None:
    own = RNG.integers(0, 255, (3, 40, 48, 3), np.uint8)
    np.testing.assert_array_equal(watch(explainer(), BATCH, pictures=own).pictures, own)
    grey = watch(explainer(), BATCH, pictures=own[..., 0]).pictures
    np.testing.assert_array_equal(grey, np.repeat(own[..., :1], 3, axis=3))
    listed = watch(explainer(), BATCH, pictures=[Image.fromarray(p) for p in own]).pictures
    np.testing.assert_array_equal(listed, own)
    assert watch(explainer(), BATCH[:1], pictures=np.zeros((1, 1000, 500, 3), np.uint8)).pictures.shape == (
        1,
        480,
        240,
        3,
    )


@pytest.mark.parametrize(
    ("rule", "sizes", "expected"),
    [
        (preprocess("unit", size=(16, 16), resize="squash"), [(60, 60), (60, 60)], (60, 60)),
        (preprocess("unit", size=(16, 16), resize="squash"), [(60, 30), (80, 100)], (100, 100)),
        (preprocess("unit", size=(16, 32), resize="squash"), [(8, 8), (6, 4)], (16, 32)),
        (preprocess("unit", size=(16, 16)), [(1200, 900), (700, 800)], (480, 480)),
        (preprocess("unit", size=(16, 16)), [(64, 128), (64, 128)], (56, 56)),
        (preprocess("unit", resize="none"), [(40, 30), (40, 30)], (40, 30)),
    ],
)
def test_files_are_shown_as_the_network_sees_them(
    tmp_path: Path, rule: Preprocess, sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    paths = files(tmp_path, sizes)
    seen = watch(explainer(rule), paths)
    assert seen.pictures.shape == (2, *expected, 3)
    assert seen.names == ("picture 0", "picture 1")
    assert len(seen.images) == 2
    middle = seen.pictures[:, expected[0] // 2, expected[1] // 2]
    assert (middle > 200).all()
    assert not seen.pictures[:, 0, 0].any()


def test_masks_and_boxes_of_files_are_cut_with_them(tmp_path: Path) -> None:
    """The mask is the bright square, in pixels of the files; where the network sees it, it lies on the square."""
    sizes = [(60, 120), (90, 60)]
    paths, rule = files(tmp_path, sizes), preprocess("unit", size=(32, 32))
    squares = [np.asarray(Image.open(path))[..., 0] > 0 for path in paths]
    halves = [square[::2, ::2] for square in squares]  # of another size, but of the whole picture
    boxes = [(w // 4, h // 4, w * 3 // 4, h * 3 // 4) for h, w in sizes]
    for options in ({"masks": squares}, {"boxes": boxes}, {"masks": halves}):
        seen = watch(explainer(rule), paths, **options)
        assert seen.masks is not None
        assert len(seen.masks) == 2
        for mask, picture in zip(seen.masks, seen.pictures, strict=True):
            rows = (
                np.arange(len(mask)) * len(picture) // len(mask),
                np.arange(mask.shape[1]) * len(picture) // len(mask),
            )
            bright = picture[rows[0][:, None], rows[1], 0] > 127
            assert (bright == mask).mean() > 0.93
            assert 0.2 < mask.mean() < 0.8


def test_a_box_that_the_network_does_not_see(tmp_path: Path) -> None:
    seen = watch(explainer(preprocess("unit", size=(32, 32))), files(tmp_path, [(60, 180)]), boxes=[[(0, 0, 10, 10)]])
    assert seen.masks is not None
    assert not seen.masks.any()


def test_masks_and_boxes_of_arrays() -> None:
    masks = RNG.random((3, 5, 6)) > 0.5
    seen = watch(explainer(), BATCH, masks=masks)
    np.testing.assert_array_equal(seen.masks, masks)
    boxed = watch(explainer(), BATCH, boxes=[(0, 0, 6, 10), [(0, 0, 12, 5), (0, 5, 6, 10)], []])
    assert boxed.masks is not None
    assert boxed.masks.mean(axis=(1, 2)).tolist() == [0.5, 0.75, 0.0]
    larger = np.zeros((3, 100, 120, 3), np.uint8)
    boxed = watch(explainer(), BATCH, pictures=larger, boxes=[(0, 0, 60, 100)] * 3)
    assert boxed.masks is not None
    assert boxed.masks.shape == (3, 100, 120)
    assert boxed.masks.mean() == 0.5


def test_names_are_harmless() -> None:
    assert watch(explainer(), BATCH, names=["a\x1b[0m", "b", "c"]).names == ("a [0m", "b", "c")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"names": ["a"]}, "1 names were given for 3 images; give one each"),
        ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, "2 pictures were given for 3 images"),
        ({"masks": np.ones((2, 4, 4), bool)}, "2 masks were given for 3 images"),
        ({"boxes": [(0, 0, 1, 1)]}, "1 boxes were given for 3 images"),
        (
            {"pictures": [np.zeros((4, 4), np.uint8)] * 2 + [np.zeros((5, 4), np.uint8)]},
            "different sizes [(4, 4, 3), (5",
        ),
        ({"masks": np.ones((3, 4, 4))}, "masks are (4, 4) float64; expected (N, H, W) bool"),
        ({"masks": np.ones((3, 4), bool)}, "masks are (4,) bool; expected"),
        ({"masks": np.ones((3, 4, 4), bool), "boxes": [[]] * 3}, "masks and boxes were given; expected one of them"),
        ({"boxes": [(5, 5, 5, 5), [], []]}, "box [5, 5, 5, 5] of picture 0"),
    ],
)
def test_what_does_not_fit(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        watch(explainer(), BATCH, **given)


def test_what_is_no_picture() -> None:
    with pytest.raises(InputError, match="images have 1 spatial axes; only pictures can be watched"):
        watch(explainer(axes=1), np.ones((2, 3, 9)))
    with pytest.raises(InputError, match="give preprocess="):
        watch(explainer(), [np.zeros((4, 4, 3), np.uint8)])
