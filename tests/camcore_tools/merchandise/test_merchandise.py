"""The drawn merchandise: same seed same bytes, masks that lie on the object, shapes rather than colours."""

import numpy as np
import pytest
from camcore_tools import merchandise
from camcore_tools.merchandise import KINDS, PictureSet, draw, picture_set
from numpy.typing import NDArray


@pytest.fixture(scope="module")
def many() -> PictureSet:
    return picture_set(60, 64, seed=2024)


def spread(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow a mask by one pixel on every side."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    grown: NDArray[np.bool_] = np.any([padded[i : i + height, j : j + width] for i, j in np.ndindex(3, 3)], axis=0)
    return grown


def bytes_of(pictures: PictureSet) -> tuple[bytes, bytes, bytes]:
    return pictures.images.tobytes(), pictures.labels.tobytes(), pictures.masks.tobytes()


def test_same_seed_gives_same_bytes_whatever_was_drawn_before() -> None:
    first = picture_set(2, 32, seed=5)
    picture_set(1, 48, seed=6)
    assert bytes_of(picture_set(2, 32, seed=5)) == bytes_of(first)
    assert bytes_of(picture_set(2, 32, seed=7)) != bytes_of(first)


@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_is_determined_by_its_generator(kind: str) -> None:
    image, mask = draw(kind, 40, rng=np.random.default_rng(3))
    again, mask_again = draw(kind, 40, rng=np.random.default_rng(3))
    assert (image.shape, image.dtype.name) == ((40, 40, 3), "uint8")
    assert (mask.shape, mask.dtype.name) == ((40, 40), "bool")
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)


def test_set_is_balanced_and_shuffled(many: PictureSet) -> None:
    assert (many.images.shape, many.images.dtype.name) == ((300, 64, 64, 3), "uint8")
    assert (many.masks.shape, many.masks.dtype.name) == ((300, 64, 64), "bool")
    assert (many.labels.shape, many.labels.dtype.name) == ((300,), "int64")
    assert np.bincount(many.labels).tolist() == [60] * 5
    assert len(set(many.labels[:20].tolist())) == 5


def test_each_picture_of_a_set_is_told() -> None:
    told: list[int] = []
    drawn = picture_set(1, 24, seed=0, after_each=lambda: told.append(1))
    assert len(told) == 5
    np.testing.assert_array_equal(drawn.images, picture_set(1, 24, seed=0).images)


def test_set_of_none_is_empty() -> None:
    assert picture_set(0, 16, seed=0).images.shape == (0, 16, 16, 3)


def test_object_covers_a_sensible_share(many: PictureSet) -> None:
    share = many.masks.mean(axis=(1, 2))
    assert share.min() > 0.06
    assert share.max() < 0.45


def test_object_hardly_touches_the_border(many: PictureSet) -> None:
    inner = many.masks[:, 1:-1, 1:-1].sum(axis=(1, 2))
    touching = many.masks.sum(axis=(1, 2)) - inner
    assert touching.max() <= 13  # of 252 border pixels
    assert touching.mean() < 1


@pytest.mark.parametrize("seed", range(6))
def test_mask_is_exactly_where_the_object_is(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal generators give the same scene, so what differs between two kinds is one object or the other."""
    monkeypatch.setattr(merchandise, "_shadowed", lambda scene, coverage: scene)
    drawn = [draw(kind, rng=np.random.default_rng(seed)) for kind in KINDS]
    for one, mask in drawn:
        for other, other_mask in drawn:
            difference = np.abs(one.astype(int) - other).max(axis=-1)
            stray = (difference > 0) & ~spread(mask | other_mask)
            assert stray.mean() < 0.003  # slivers: an object's corner that fills less than half of its pixels
            only_one = mask & ~spread(other_mask)
            assert np.count_nonzero(difference[only_one] > 8) >= 0.9 * np.count_nonzero(only_one)


@pytest.mark.parametrize("kind", KINDS)
def test_shadow_stays_by_the_object(kind: str) -> None:
    other = KINDS[(KINDS.index(kind) + 1) % 5]
    image, mask = draw(kind, rng=np.random.default_rng(11))
    other_image, other_mask = draw(other, rng=np.random.default_rng(11))
    near = mask | other_mask
    for _ in range(10):
        near = spread(near)
    np.testing.assert_array_equal(image[~near], other_image[~near])


@pytest.mark.parametrize("kind", KINDS)
def test_size_changes_the_resolution_only(kind: str) -> None:
    small, small_mask = draw(kind, 48, rng=np.random.default_rng(8))
    large, large_mask = draw(kind, 96, rng=np.random.default_rng(8))
    halved = large.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 12
    assert np.mean((large_mask.reshape(48, 2, 48, 2).mean(axis=(1, 3)) > 0.5) != small_mask) < 0.02


def test_colours_do_not_give_the_kind_away(many: PictureSet) -> None:
    weights = many.masks[..., None] / many.masks.sum(axis=(1, 2))[:, None, None, None]
    colours = (many.images * weights).sum(axis=(1, 2))
    half = len(colours) // 2
    means = np.array([colours[:half][many.labels[:half] == kind].mean(axis=0) for kind in range(5)])
    guess = np.linalg.norm(colours[half:, None] - means, axis=2).argmin(axis=1)
    assert np.mean(guess == many.labels[half:]) < 0.36  # chance is 0.2


def test_unknown_kind_names_the_five() -> None:
    with pytest.raises(
        ValueError, match=r"unknown kind 'mug': .*'cap', 'cube', 'playing cards', 'screwdriver', 'torch'"
    ):
        draw("mug", rng=np.random.default_rng(0))
