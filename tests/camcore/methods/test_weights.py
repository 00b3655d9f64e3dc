"""The formulas against loops written from the papers, in float64."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import InputError, LinearHead, activation_map, cam, formulas

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def paper_cam(features: np.ndarray, weight: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """M_c(u) = sum_k w_k^c f_k(u): equation 2 of Zhou et al., one number at a time."""
    n, channels, *space = features.shape
    maps = np.zeros((n, classes.shape[1], *space))
    for i, t in np.ndindex(*classes.shape):
        for u in itertools.product(*map(range, space)):
            maps[(i, t, *u)] = sum(weight[classes[i, t], k] * features[(i, k, *u)] for k in range(channels))
    return maps


def case(space: tuple[int, ...], seed: int, n: int = 2, channels: int = 3) -> tuple[np.ndarray, LinearHead, np.ndarray]:
    rng = np.random.default_rng(seed)
    head = LinearHead(rng.standard_normal((5, channels)), rng.standard_normal(5))
    return rng.standard_normal((n, channels, *space)), head, rng.integers(0, 5, (n, rng.integers(1, 4)))


def every(n: int, count: int = 5) -> np.ndarray:
    return np.tile(np.arange(count), (n, 1))


@settings(deadline=None, max_examples=50)
@given(space=SPACES, seed=st.integers(0, 2**32 - 1), n=st.integers(1, 3), channels=st.integers(1, 5))
def test_cam_is_that_of_the_paper(space: tuple[int, ...], seed: int, n: int, channels: int) -> None:
    features, head, classes = case(space, seed, n, channels)
    np.testing.assert_allclose(
        cam(features, head, classes), paper_cam(features, head.weight, classes), rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(cam(features, head), paper_cam(features, head.weight, every(n)), rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=50)
@given(space=SPACES, seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_a_map_plus_the_bias_is_the_score(space: tuple[int, ...], seed: int) -> None:
    features, head, _ = case(space, seed)
    axes = tuple(range(2, features.ndim))
    np.testing.assert_allclose(
        cam(features, head).mean(axis=axes) + head.bias, head(features.mean(axis=axes)), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("space", [(6,), (2, 3), (2, 1, 3)])
def test_the_maps_of_an_identity_head_are_the_features(space: tuple[int, ...]) -> None:
    features, _, _ = case(space, 0, channels=5)
    classes = np.array([[4, 0, 0], [1, 2, 3]])
    head = LinearHead.identity(5)
    np.testing.assert_array_equal(cam(features, head), features)
    np.testing.assert_array_equal(cam(features, head, classes), paper_cam(features, np.eye(5), classes))


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_both_ways_to_multiply_agree(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "_SMALL", limit)
    features, head, classes = case((3, 4), 1)
    np.testing.assert_allclose(
        cam(features, head, classes), paper_cam(features, head.weight, classes), rtol=1e-12, atol=1e-13
    )


def test_raw_maps_keep_their_sign() -> None:
    assert cam(np.ones((1, 1, 2, 2)), LinearHead([[-3.0]])).tolist() == [[[[-3, -3], [-3, -3]]]]


@pytest.mark.parametrize(("given_as", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_half_precision_is_computed_in_float32(given_as: type, kept: type) -> None:
    features = np.full((1, 400, 2, 2), 400, given_as)  # their sum, 160000, exceeds float16
    maps = cam(features, LinearHead(np.ones((1, 400), kept)))
    assert maps.dtype == kept
    assert (maps == 160000).all()
    assert activation_map(features).dtype == kept


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 3), (3,)])
def test_features_without_the_channels_of_the_head(shape: tuple[int, ...]) -> None:
    text = f"features have shape {shape}; the head reads (N, 3, *S) with 1 to 3 spatial axes"
    with pytest.raises(InputError, match=re.escape(text)):
        cam(np.zeros(shape), LinearHead(np.ones((5, 3))))


@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=st.integers(0, 2**32 - 1))
def test_the_activation_map_is_the_mean_over_channels_for_every_class(space: tuple[int, ...], seed: int) -> None:
    features, _, classes = case(space, seed)
    mean = sum(features[:, k] for k in range(3)) / 3
    np.testing.assert_allclose(activation_map(features), mean[:, None], rtol=1e-12, atol=1e-14)
    expected = np.stack([mean] * classes.shape[1], axis=1)
    np.testing.assert_allclose(activation_map(features, classes), expected, rtol=1e-12, atol=1e-14)
