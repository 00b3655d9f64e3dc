"""Maps in half precision: what is read back is the map, of any magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.half import from_half, to_half


def maps(peak: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-1, 1, (1, 1, 5, 4))
    return (values / np.abs(values).max() * peak).astype(np.float32)


@given(exponent=st.floats(-37.5, 38.4), seed=st.integers(0, 9))
def test_any_magnitude_comes_back(exponent: float, seed: int) -> None:
    given_maps = maps(10.0**exponent, seed)
    half, scales = to_half(given_maps)
    assert half.dtype == np.float16
    assert np.isfinite(half).all()
    assert np.isfinite(scales).all()
    assert np.log2(scales.astype(np.float64)) == np.round(np.log2(scales.astype(np.float64)))
    difference = np.abs(from_half(half, scales).astype(np.float64) - given_maps)
    assert difference.max() <= 2.0**-11 * np.abs(given_maps).max()


@pytest.mark.parametrize(
    ("peak", "plain"), [(2.0**-13, True), (1.0, True), (65504.0, True), (1e-4, False), (65520.0, False)]
)
def test_the_scale_is_one_where_float16_is_enough(peak: float, plain: bool) -> None:
    half, scales = to_half(maps(peak))
    assert (scales == 1).all() == plain
    if plain:
        np.testing.assert_array_equal(half, maps(peak).astype(np.float16))


def test_each_map_has_a_scale_of_its_own() -> None:
    both = np.concatenate([maps(1e-9), maps(3.0)])
    _, scales = to_half(both)
    assert scales[0, 0] < 1e-8
    assert scales[1, 0] == 1


def test_zeros_infinity_and_nan_stay() -> None:
    odd = np.array([[[0.0, 0.0], [np.inf, 2e5], [np.nan, -np.inf], [np.nan, np.nan]]], np.float32)
    half, scales = to_half(odd)
    np.testing.assert_allclose(from_half(half, scales), odd, rtol=2.0**-11)
    np.testing.assert_array_equal(scales[0, [0, 2, 3]], 1)


def test_no_maps() -> None:
    half, scales = to_half(np.zeros((0, 3, 2, 2), np.float32))
    assert from_half(half, scales).shape == (0, 3, 2, 2)
    assert scales.shape == (0, 3)
