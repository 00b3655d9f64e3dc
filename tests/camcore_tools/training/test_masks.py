"""Masks beside pictures: found by name, seen as the network sees the pictures."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.training.masks import load_masks
from PIL import Image

from camcore import InputError
from camcore.preprocess import preprocess

RULE = preprocess("unit", size=(16, 16))
LEFT = np.zeros((20, 30), np.uint8)
LEFT[:, :15] = 1


def saved(path: Path, mask: np.ndarray = LEFT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_masks_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    saved(tmp_path / "cap" / "1.png")
    saved(tmp_path / "cap" / "2.bmp", 1 - LEFT)
    masks = load_masks(tmp_path, ["cap/2.jpg", "cap/1.webp", "cap/2.jpg"], rule=RULE)
    assert (masks.shape, masks.dtype) == ((3, 16, 16), bool)
    assert masks[1, :, :8].all()
    assert not masks[1, :, 8:].any()
    np.testing.assert_array_equal(masks[0], ~masks[1])
    np.testing.assert_array_equal(masks[2], masks[0])


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_the_geometry_is_that_of_the_pictures(tmp_path: Path, resize: str) -> None:
    """A bright disc in a picture and its mask at half the resolution."""
    rule = preprocess("unit", size=(32, 40), resize=resize)
    y, x = np.mgrid[:120, :200]
    disc = (x - 90) ** 2 + (y - 70) ** 2 < 45**2
    saved(tmp_path / "a.png", disc[::2, ::2] * np.uint8(255))
    picture = np.repeat(disc[..., None] * np.uint8(255), 3, axis=2)
    (mask,) = load_masks(tmp_path, ["a.jpg"], rule=rule)
    assert (mask != (rule.fit(picture)[0][..., 0] > 127)).mean() < 0.03


def test_of_several_the_png_is_taken(tmp_path: Path) -> None:
    saved(tmp_path / "a.bmp", 1 - LEFT)
    saved(tmp_path / "a.png")
    saved(tmp_path / "a.tif", 1 - LEFT)
    assert load_masks(tmp_path, ["a.jpg"], rule=RULE)[0, 0, 0]


def test_letters_in_other_bytes_and_dots_in_names(tmp_path: Path) -> None:
    saved(tmp_path / (unicodedata.normalize("NFD", "café") + ".v2.png"))
    assert load_masks(tmp_path, ["café.v2.jpg"], rule=RULE).any()


def test_missing_masks_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "a" / "0.png")
    names = [f"a/{n}.jpg" for n in range(6)]
    text = f"{tmp_path}: 5 of 6 pictures have no mask: a/1.jpg, a/2.jpg, a/3.jpg, ...; expected such as a/1.png"
    with pytest.raises(InputError, match="^" + re.escape(text) + "$"):
        load_masks(tmp_path, names, rule=RULE)


def test_no_folder(tmp_path: Path) -> None:
    text = f"{tmp_path}/masks: no such folder; expected masks in it, named as the pictures are"
    with pytest.raises(InputError, match="^" + re.escape(text) + "$"):
        load_masks(tmp_path / "masks", ["a.jpg"], rule=RULE)


def test_a_damaged_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"a\.png: the file is empty"):
        load_masks(tmp_path, ["a.jpg"], rule=RULE)


def test_photographs_as_masks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    saved(tmp_path / "a.png", LEFT * np.uint8(255))
    saved(tmp_path / "b.jpg", LEFT * np.uint8(255))
    load_masks(tmp_path, ["a.png", "b.png"], rule=RULE)
    assert capsys.readouterr().err == ""
    saved(tmp_path / "c.png", random.integers(0, 256, (20, 30, 3), np.uint8))
    load_masks(tmp_path, ["a.png", "c.png"], rule=RULE)
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/c.png looks like a photograph, not like a mask; expected black where the object is not, and "
        "any one colour where it is\n"
    )


def test_masks_of_several_sizes_where_sizes_are_kept(tmp_path: Path) -> None:
    saved(tmp_path / "a.png")
    saved(tmp_path / "b.png", LEFT[:5])
    with pytest.raises(InputError, match="masks of several sizes; with resize='none' all must have that"):
        load_masks(tmp_path, ["a.png", "b.png"], rule=preprocess("unit", resize="none"))
