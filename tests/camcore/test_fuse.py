"""Several layers' maps as one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_network import values

from camcore import InputError, fuse, normalize, resize
from camcore.fuse import FUSIONS, check_fusion
from camcore.normalize import NORMALIZATIONS

JOINED = {"max": np.max, "mean": np.mean, "product": np.prod}


def layers(*sizes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    return [values(2, 3, *size, seed=seed + i) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("scaling", NORMALIZATIONS)
@pytest.mark.parametrize("how", FUSIONS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), axes=st.integers(1, 3))
def test_each_layer_is_scaled_resized_and_joined(how: str, scaling: str, seed: int, axes: int) -> None:
    maps = layers((2, 3, 2)[:axes], (4, 5, 3)[:axes], seed=seed)
    found = fuse(maps, how, scaling=scaling)
    scaled = [resize(normalize(m, scaling, spatial=axes), (4, 5, 3)[:axes]) for m in maps]
    np.testing.assert_allclose(found, JOINED[how](np.stack(scaled), axis=0), rtol=1e-6, atol=1e-7)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("weights", [[0.5, 2.0], (1, 0), np.array([0.25, 0.75])])
def test_numbers_are_the_weights_of_a_sum(weights: Any) -> None:
    maps = layers((3, 3), (6, 6))
    scaled = [resize(normalize(m, "relu-max"), (6, 6)) for m in maps]
    np.testing.assert_allclose(fuse(maps, weights), weights[0] * scaled[0] + weights[1] * scaled[1], rtol=1e-6)


def test_units_do_not_matter() -> None:
    """Scaled by itself, a layer counts as much with gradients of 1e-20 as with those of 1e20."""
    one, other = layers((4, 4), (4, 4))
    np.testing.assert_allclose(fuse([one, other]), fuse([one * 1e-20, other * 1e20]), rtol=1e-5)


def test_the_largest_of_each_axis_is_the_size_unless_one_is_given() -> None:
    maps = layers((2, 9), (5, 3))
    assert fuse(maps).shape == (2, 3, 5, 9)
    assert fuse(maps, size=(7, 8)).shape == (2, 3, 7, 8)


def test_one_layer_is_scaled() -> None:
    (maps,) = layers((4, 4))
    for how in FUSIONS:
        np.testing.assert_allclose(fuse([maps], how), normalize(maps, "relu-max"), rtol=1e-6)


def test_what_is_no_number_in_one_layer_leaves_the_other() -> None:
    one, other = layers((4, 4), (4, 4))
    one[0, 0] = np.nan
    other[1, 1] = 0
    found = fuse([one, other])
    np.testing.assert_array_equal(found[0, 0], normalize(other[0, 0], "relu-max"))
    np.testing.assert_array_equal(found[1, 1], normalize(one[1, 1], "relu-max"))
    assert np.isfinite(found).all()
    assert not fuse([one, other], "product")[0, 0].any()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["max", "mean", "product", [0.3, 0.7]])
def test_the_precision_is_kept(kind: type, how: Any) -> None:
    assert fuse([m.astype(kind) for m in layers((2, 2), (3, 3))], how).dtype == kind


def test_unknown_ways() -> None:
    with pytest.raises(InputError, match=r"fusion 'sum' is not known\. Known: .* Or give one weight a layer\."):
        fuse(layers((2, 2)), "sum")
    with pytest.raises(InputError, match=r"normalisation 'relu' is not known\. Did you mean 'relu-max'"):
        fuse(layers((2, 2)), scaling="relu")


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [1.0, -1.0], [1.0, np.nan], [[1.0, 2.0]], []])
def test_weights_that_do_not_fit(weights: Any) -> None:
    text = f"fusion weights {weights!r} for 2 layer(s); give one number, not negative, a layer"
    with pytest.raises(InputError, match=re.escape(text)):
        fuse(layers((2, 2), (2, 2)), weights)


@pytest.mark.parametrize("how", [["a", "b"], [[1], [1, 2]], {"max": 1}, None])
def test_what_is_neither_a_name_nor_numbers(how: Any) -> None:
    with pytest.raises(InputError, match="fusion"):
        fuse(layers((2, 2), (2, 2)), how)


def test_a_line_and_a_plane_do_not_meet() -> None:
    text = "maps of [1, 2] spatial axes cannot be fused; give layers laid out alike"
    with pytest.raises(InputError, match=re.escape(text)):
        fuse(layers((4,), (4, 4)))


def test_what_cannot_be_done_is_said_before_any_work() -> None:
    check_fusion("max", None, "largest", 1)
    check_fusion([1, 2], "tanh", "largest", 2)
    with pytest.raises(InputError, match="fusion 'maxi' is not known"):
        check_fusion("maxi", None, "largest", 1)
    with pytest.raises(InputError, match=r"fusion weights \[1, 2\] for 3 layer"):
        check_fusion([1, 2], None, "largest", 3)
    with pytest.raises(InputError, match=r"scaling 'tahn' is not known\. Did you mean 'tanh'"):
        check_fusion("max", "tahn", "largest", 1)
