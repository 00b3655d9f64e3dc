"""CAM and the sum over channels against loops, in float64."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods import weights
from camcore.methods.weights import cam, combine, floating

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
    monkeypatch.setattr(weights, "SMALL", limit)
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


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 3), (3,)])
def test_features_without_the_channels_of_the_head(shape: tuple[int, ...]) -> None:
    text = f"features have shape {shape}; the head reads (N, 3, *S) with 1 to 3 spatial axes"
    with pytest.raises(InputError, match=re.escape(text)):
        cam(np.zeros(shape), LinearHead(np.ones((5, 3))))


def loops(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """sum_k w_k(u) A_k(u), one number at a time."""
    n, targets, channels = weights.shape[:3]
    space = features.shape[2:]
    maps = np.zeros((n, targets, *space))
    for i, t in np.ndindex(n, targets):
        for u in np.ndindex(*space):
            here = u if weights.shape[3:] == space else (0,) * (weights.ndim - 3)
            maps[(i, t, *u)] = sum(weights[(i, t, k, *here)] * features[(i, k, *u)] for k in range(channels))
    return maps


@settings(deadline=None, max_examples=50)
@given(space=SPACES, seed=st.integers(0, 2**32 - 1), n=st.integers(1, 3), channels=st.integers(1, 5))
def test_combine_takes_weights_per_channel_and_per_position(space: tuple[int, ...], seed: int, n, channels) -> None:
    features, _, classes = case(space, seed, n, channels)
    rng = np.random.default_rng(seed + 1)
    for tail in [(), (1,) * len(space), space]:
        given_weights = rng.standard_normal((*classes.shape, channels, *tail))
        expected = loops(given_weights, features)
        np.testing.assert_allclose(combine(given_weights, features), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_both_ways_to_combine_agree(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SMALL", limit)
    features, _, _ = case((3, 4), 2)
    given_weights = np.random.default_rng(3).standard_normal((2, 3, 3))
    np.testing.assert_allclose(combine(given_weights, features), loops(given_weights, features), rtol=1e-12)


def test_combining_a_row_of_the_head_is_cam() -> None:
    features, head, classes = case((3, 4), 4)
    np.testing.assert_allclose(combine(head.weight[classes], features), cam(features, head, classes), rtol=1e-14)


@pytest.mark.parametrize("tail", [(), (1, 1), (2, 2)])
def test_combine_computes_half_precision_in_float32(tail: tuple[int, ...]) -> None:
    features, ones = np.full((1, 400, 2, 2), 400, np.float16), np.ones((1, 1, 400, *tail), np.float16)
    maps = combine(ones, features)
    assert maps.dtype == np.float32
    assert (maps == 160000).all()
    assert combine(ones.astype(np.float32), features.astype(np.float32)).dtype == np.float32
    assert combine(ones.astype(float), features.astype(float)).dtype == np.float64


def test_nan_stays_at_its_position_and_image() -> None:
    features, _, _ = case((3, 3), 5)
    features[1, 0, 2, 1] = np.nan
    for tail in [(), (1, 1), (3, 3)]:
        maps = combine(np.ones((2, 1, 3, *tail)), features)
        assert np.argwhere(np.isnan(maps)).tolist() == [[1, 0, 2, 1]]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.uint8])
def test_floating(kind: type) -> None:
    array = np.array([1, 2], kind)
    assert floating(array).dtype == (kind if kind in (np.float32, np.float64) else np.float32)
    assert floating(array).tolist() == [1, 2]
    assert (floating(array) is array) == (kind in (np.float32, np.float64))


@pytest.mark.parametrize("rows", [[[0, 2], [0, 2], [0, 2]], [[0, 2], [1, 1], [2, 0]]], ids=["shared", "own"])
def test_classes_of_a_batch_shared_or_not(rows: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SMALL", 0)
    generator = np.random.default_rng(0)
    features, weight = generator.random((3, 4, 2, 5)), generator.random((3, 4))
    expected = paper_cam(features, weight, np.array(rows))
    np.testing.assert_allclose(cam(features, LinearHead(weight), np.array(rows)), expected, rtol=1e-12)
