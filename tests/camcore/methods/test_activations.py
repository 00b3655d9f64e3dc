"""Methods that look at the features alone."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.methods import METHODS
from camcore.methods.activations import activation_map, fem, random_map

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
CLASSES = np.array([[4, 0, 0], [1, 2, 3]])


def noise(features: np.ndarray, classes: np.ndarray | None = None, **options: int) -> np.ndarray:
    """The random map of images that look like their features."""
    return random_map(features, features, classes, **options)


ALL = pytest.mark.parametrize("formula", [activation_map, fem, noise], ids=lambda f: f.__name__)


def case(space: tuple[int, ...], seed: int, n: int = 2, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, channels, *space)) + 0.5


@ALL
@pytest.mark.parametrize("space", [(6,), (2, 3), (2, 1, 3), (1,), (1, 1)])
@pytest.mark.parametrize(("given_as", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_shapes_and_precision(formula, space, given_as: type, kept: type) -> None:
    features = case(space, 0).astype(given_as)
    assert formula(features).shape == (2, 1, *space)
    assert formula(features, CLASSES).shape == (2, 3, *space)
    assert formula(features).dtype == formula(features, CLASSES).dtype == kept


@ALL
def test_an_image_does_not_know_its_batch(formula) -> None:
    features = case((3, 4), 1, n=4)
    classes = np.array([[0, 1], [2, 3], [0, 0], [4, 1]])
    alone = np.concatenate([formula(features[i : i + 1], classes[i : i + 1]) for i in range(4)])
    np.testing.assert_array_equal(formula(features, classes), alone)
    np.testing.assert_array_equal(formula(features[::-1], classes[::-1]), alone[::-1])


@pytest.mark.parametrize("formula", [activation_map, fem], ids=lambda f: f.__name__)
def test_every_class_has_the_same_map(formula) -> None:
    features = case((3, 4), 2)
    maps = formula(features, CLASSES)
    for t in range(3):
        np.testing.assert_array_equal(maps[:, t], formula(features)[:, 0])


@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_the_activation_map_is_the_mean_over_channels(space: tuple[int, ...], seed: int) -> None:
    features = case(space, seed)
    mean = sum(features[:, k] for k in range(3)) / 3
    np.testing.assert_allclose(activation_map(features), mean[:, None], rtol=1e-12, atol=1e-14)


def test_the_activation_map_of_half_precision_does_not_round_to_it() -> None:
    features = np.zeros((1, 2, 1, 1), np.float16)
    features[0, :, 0, 0] = 2048, 2050
    assert activation_map(features).item() == 2049  # which float16 does not have


def test_nan_in_the_activation_map_stays_at_its_position() -> None:
    features = case((2, 2), 3)
    features[1, 2, 0, 1] = np.nan
    assert np.argwhere(np.isnan(activation_map(features))).tolist() == [[1, 0, 0, 1]]


def paper_fem(features: np.ndarray, z: float) -> tuple[np.ndarray, float]:
    """Fuad et al., one number at a time, and how near a value came to its threshold."""
    n, channels, *space = features.shape
    maps, nearest = np.zeros((n, math.prod(space))), math.inf
    for i, k in np.ndindex(n, channels):
        values = features[i, k].ravel().tolist()
        mean = sum(values) / len(values)
        sigma = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        nearest = min(nearest, *(abs(v - mean - z * sigma) for v in values))
        for u, v in enumerate(values):
            maps[i, u] += mean if v >= mean + z * sigma else 0
    return maps.reshape(n, 1, *space), nearest


@settings(deadline=None, max_examples=60)
@given(space=SPACES, seed=SEEDS, z=st.sampled_from([0.5, 1.0, 2.0, -0.3]))
def test_fem_is_that_of_the_paper(space: tuple[int, ...], seed: int, z: float) -> None:
    features = case(space, seed)
    expected, nearest = paper_fem(features, z)
    assume(nearest > 1e-9)  # else rounding decides; two values, say, are exactly one deviation from their mean
    np.testing.assert_allclose(fem(features, z=z), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -0.7, 1e-30, 12345.678])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_constant_channel_adds_its_mean_everywhere(value: float, kind: type) -> None:
    features = np.full((1, 1, 7, 7), value, kind)  # 49 values whose mean, summed up, is another number
    assert (fem(features) == kind(value)).all()
    peak = np.zeros((1, 1, 7, 7), kind)
    peak[0, 0, 3, 3] = 1
    both = fem(np.concatenate([features, peak], axis=1))
    np.testing.assert_allclose(both, fem(peak) + kind(value), rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**90])
def test_fem_scales_with_the_features(scale: float) -> None:
    features = case((5, 5), 4).astype(np.float32)
    np.testing.assert_array_equal(fem(features * np.float32(scale)), fem(features) * np.float32(scale))


def test_fem_of_zeros_of_negatives_and_of_one_pixel() -> None:
    assert (fem(np.zeros((1, 3, 4, 4))) == 0).all()
    assert (fem(-np.abs(case((5, 5), 5)), z=1.0) <= 0).all()
    assert fem(np.array([[[2.0], [3.0]]])).tolist() == [[[5.0]]]


def test_nan_makes_the_fem_of_its_image_nan() -> None:
    features = case((3, 3), 6)
    clean = fem(features)
    features[0, 1, 2, 2] = np.nan
    maps = fem(features)
    assert np.isnan(maps[0]).all()
    np.testing.assert_array_equal(maps[1], clean[1])


def test_pytorch_grad_cam_has_another_fem() -> None:
    """It weighs A_k by the share of positions above the threshold; the paper weighs the mask by the mean."""
    peer = pytest.importorskip("pytorch_grad_cam.fem").FEM
    features = np.maximum(case((5, 6), 7), 0)
    theirs = peer.get_cam_image(SimpleNamespace(k=2), None, None, None, features, None, False)
    flat = features.reshape(2, 3, -1)
    mask = flat > (flat.mean(axis=2) + 2 * flat.std(axis=2))[:, :, None]
    np.testing.assert_allclose(theirs.reshape(2, -1), np.einsum("nc,ncs->ns", mask.mean(axis=2), flat), rtol=1e-12)
    np.testing.assert_allclose(fem(features), paper_fem(features, 2.0)[0], rtol=1e-12)
    ours = fem(features)[:, 0]
    assert np.abs(ours / ours.max() - theirs / theirs.max()).max() > 0.1


# The random map


def test_the_random_map_is_the_same_again_and_for_its_class() -> None:
    features = case((8, 8), 8)
    maps = noise(features, CLASSES)
    np.testing.assert_array_equal(maps, noise(features.copy(), CLASSES))
    np.testing.assert_array_equal(maps[0, 1], maps[0, 2])  # class 0 twice
    np.testing.assert_array_equal(noise(features)[0, 0], maps[0, 1])  # class 0 where none is given
    strided = np.repeat(features, 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(noise(strided, CLASSES), maps)


def test_the_random_map_knows_the_images_and_of_the_features_the_shape() -> None:
    images, features = case((16, 16), 8), case((8, 8), 9).astype(np.float32)
    maps = random_map(features, images, CLASSES)
    np.testing.assert_array_equal(random_map(features + 1, images, CLASSES), maps)  # another runtime
    np.testing.assert_array_equal(random_map(features[:, :1], images.astype(np.float32), CLASSES), maps)
    assert random_map(features[:, :, :3], images, CLASSES).shape == (2, 3, 3, 8)
    assert (random_map(features, images + 1, CLASSES) != maps).any()


def test_another_seed_class_or_image_has_another_random_map() -> None:
    features = case((8, 8), 9).astype(np.float32)
    maps = noise(features, CLASSES)
    others = [maps[0, 0], maps[0, 1], maps[1, 0], maps[1, 1], noise(features, CLASSES, seed=1)[0, 0]]
    touched = features.copy()
    touched[0, 0, 0, 0] = np.nextafter(touched[0, 0, 0, 0], np.float32(9))
    others.append(noise(touched, CLASSES)[0, 0])
    for i, j in itertools.combinations(range(6), 2):
        assert abs(np.corrcoef(others[i].ravel(), others[j].ravel())[0, 1]) < 0.5


def test_the_random_map_is_uniform() -> None:
    for kind in (np.float32, np.float64):
        values = noise(case((64, 64), 10).astype(kind), np.arange(10).reshape(2, 5))
        assert values.min() >= 0
        assert values.max() < 1
        counts, _ = np.histogram(values, bins=16, range=(0, 1))
        assert np.abs(counts / values.size * 16 - 1).max() < 0.1
        assert abs(np.corrcoef(values[..., :-1].ravel(), values[..., 1:].ravel())[0, 1]) < 0.03


def test_nan_does_not_disturb_the_random_map() -> None:
    assert np.isfinite(noise(np.full((1, 2, 3, 3), np.nan))).all()


def test_a_negative_seed() -> None:
    with pytest.raises(InputError, match="seed is -1; expected a whole number that is not negative"):
        noise(np.zeros((1, 1, 2)), seed=-1)


def test_rows() -> None:
    for name, formula in [("activationmap", activation_map), ("fem", fem), ("random", random_map)]:
        assert METHODS[name].formula is formula
        assert METHODS[name].kin == ""
        assert not METHODS[name].rectifies
