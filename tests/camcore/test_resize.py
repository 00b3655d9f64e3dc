"""Resizing against PyTorch's interpolate, for one, two and three axes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import resize
from camcore.resize import interpolation_matrix

TORCH_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def by_torch(maps: np.ndarray, size: tuple[int, ...], mode: str = "linear") -> np.ndarray:
    name = "bicubic" if mode == "cubic" else TORCH_MODES[len(size)]
    return F.interpolate(torch.from_numpy(maps), size=size, mode=name, align_corners=False).numpy()


def maps_of(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((2, 3, *shape))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((7, 7), (224, 224)),
        ((7, 7), (480, 320)),
        ((14, 9), (13, 8)),
        ((1, 1), (5, 6)),
        ((1, 8), (9, 3)),
        ((2, 2), (3, 5)),
        ((50, 64), (7, 9)),
        ((33, 20), (1, 1)),
        ((13, 13), (13, 13)),
        ((6, 11), (6, 17)),
    ],
)
def test_two_axes_as_pytorch(old: tuple[int, int], new: tuple[int, int], mode: str) -> None:
    maps = maps_of(*old)
    np.testing.assert_allclose(resize(maps, new, mode=mode), by_torch(maps, new, mode), atol=1e-12)
    single = maps.astype(np.float32)
    found = resize(single, new, mode=mode)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_torch(single, new, mode), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    old=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    new=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    mode=st.sampled_from(["linear", "cubic"]),
)
def test_any_size_as_pytorch(old: tuple[int, int], new: tuple[int, int], mode: str) -> None:
    maps = maps_of(*old)
    np.testing.assert_allclose(resize(maps, new, mode=mode), by_torch(maps, new, mode), atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(5, 23), (23, 5), (1, 4), (4, 1), (8, 8)])
def test_one_axis_as_pytorch(old: int, new: int) -> None:
    maps = maps_of(old)
    np.testing.assert_allclose(resize(maps, (new,)), by_torch(maps, (new,)), atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((2, 3, 4), (7, 5, 9)), ((9, 8, 7), (3, 8, 2)), ((1, 1, 1), (2, 3, 4))])
def test_three_axes_as_pytorch(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    maps = maps_of(*old)
    np.testing.assert_allclose(resize(maps, new), by_torch(maps, new), atol=1e-12)


def test_cubic_on_three_axes_is_cubic_on_each() -> None:
    maps = maps_of(4, 5, 6)
    two = by_torch(maps.reshape(2, 12, 5, 6), (9, 7), "cubic").reshape(2, 3, 4, 9, 7)
    whole = by_torch(two.reshape(2, 3, 4, 63), (8, 63), "cubic").reshape(2, 3, 8, 9, 7)
    np.testing.assert_allclose(resize(maps, (8, 9, 7), mode="cubic"), whole, atol=1e-12)


def test_leading_axes_do_not_matter() -> None:
    maps = maps_of(4, 5)
    np.testing.assert_allclose(resize(maps[1, 2], (9, 9)), resize(maps, (9, 9))[1, 2], atol=1e-15)


def test_linear_stays_within_the_range_and_cubic_may_not() -> None:
    step = np.array([0.0, 0, 1, 1])
    assert np.ptp(resize(step, (40,))) == pytest.approx(1)
    assert resize(step, (40,), mode="cubic").max() > 1.01


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, bool])
def test_other_types_are_taken_as_float32(dtype: type) -> None:
    maps = np.eye(3, dtype=dtype)
    np.testing.assert_array_equal(resize(maps, (5, 5)), resize(np.eye(3, dtype=np.float32), (5, 5)))
    assert resize(maps, (3, 3)).dtype == np.float32


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_every_row_of_the_matrix_sums_to_one(mode: str, old: int, new: int) -> None:
    matrix = interpolation_matrix(old, new, mode)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert not matrix.flags.writeable  # it is cached


@pytest.mark.parametrize(
    ("shape", "size", "mode", "text"),
    [
        ((3, 3), (5, 5), "nearest", "mode is 'nearest'; expected 'linear' or 'cubic'"),
        ((3,), (5, 5), "linear", "size (5, 5) has 2 axes, the array only 1: (3,)"),
        ((3, 3), (5, 0), "linear", "cannot resize (3, 3) to (5, 0): every resized axis must be at least 1 long"),
        ((3, 0), (5, 5), "cubic", "cannot resize (3, 0) to (5, 5): every resized axis must be at least 1 long"),
    ],
)
def test_what_cannot_be_resized(shape: tuple[int, ...], size: tuple[int, ...], mode: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        resize(np.zeros(shape), size, mode=mode)


@given(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from(["linear", "cubic"]),
)
def test_a_constant_stays_that_constant(value: float, old: int, new: int, mode: str) -> None:
    maps = np.stack([np.full((old, old + 1), value, np.float32), np.ones((old, old + 1), np.float32)])
    larger = resize(maps, (new, new + 2), mode=mode)  # type: ignore[arg-type]
    assert (larger[0] == np.float32(value)).all()
    assert (larger[1] == 1).all()
