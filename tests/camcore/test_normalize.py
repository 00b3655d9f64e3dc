"""Normalisations: the formulas, and every map on which a formula breaks down."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camcore import InputError, normalize, postprocess
from camcore.normalize import NORMALIZATIONS, rectify

KINDS = list(NORMALIZATIONS)
TANH_2 = math.tanh(2)  # the largest value of "tanh"
TYPES = (np.float16, np.float32, np.float64)


def textbook(values: list[float], kind: str) -> list[float]:
    low, high = min(values), max(values)
    formulas = {
        "minmax": lambda m: (m - low) / (high - low),
        "relu-max": lambda m: max(m, 0) / high,
        "tanh": lambda m: math.tanh(2 * max(m, 0) / high),
        "sigmoid": lambda m: 1 / (1 + math.exp(-m)),
    }
    return [formulas[kind](m) for m in values]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [(12,), (3, 4), (2, 3, 2)])
def test_each_kind_is_its_formula_one_map_at_a_time(kind: str, space: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, *space))
    maps[1] *= 50
    expected = [[textbook(m.ravel().tolist(), kind) for m in row] for row in maps]
    found = normalize(maps, kind, spatial=len(space))
    np.testing.assert_allclose(found.reshape(2, 3, 12), expected, rtol=1e-12, atol=1e-16)


def half_if_equal(kind: str) -> float:
    return 0.5 if kind == "sigmoid" else 0.0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_zeros_give_zeros(kind: str, shape: tuple[int, int], dtype: type) -> None:
    assert (normalize(np.zeros(shape, dtype), kind) == half_if_equal(kind)).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_nan_counts_as_zeros(kind: str, dtype: type) -> None:
    assert (normalize(np.full((2, 3), np.nan, dtype), kind) == half_if_equal(kind)).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
@pytest.mark.parametrize("value", [-3e38, -1.0, -1e-30, 1e-38, 1e-30, 7.0, 1e30, 3e38])
def test_a_constant_map(shape: tuple[int, int], value: float) -> None:
    constant = np.full(shape, value, np.float32)
    assert (normalize(constant, "minmax") == 0).all()
    assert (normalize(constant, "relu-max") == (value > 0)).all()
    np.testing.assert_allclose(normalize(constant, "tanh"), TANH_2 * (value > 0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["relu-max", "tanh"])
def test_a_map_without_a_positive_value_gives_zeros(kind: str) -> None:
    assert (normalize(-np.arange(6.0).reshape(2, 3), kind) == 0).all()


@pytest.mark.parametrize("kind", ["minmax", "relu-max", "tanh"])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 3e38])
def test_the_scale_of_a_map_does_not_matter(kind: str, scale: float) -> None:
    maps = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.125]], np.float32)
    np.testing.assert_allclose(normalize(maps * np.float32(scale), kind), normalize(maps, kind), rtol=1e-5)


def test_the_span_of_the_largest_floats() -> None:
    for dtype in (np.float32, np.float64):
        limit = np.finfo(dtype).max
        assert normalize(np.array([[-limit, 0, limit]], dtype)).tolist() == [[0, 0.5, 1]]
        assert normalize(np.array([[-limit, 0, limit]], dtype), "sigmoid").tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("minmax", [[0, 0, 1], [0.75, 0.5, 0.25]]),  # -1..3, NaN as -1
        ("relu-max", [[0, 0, 1], [2 / 3, 1 / 3, 0]]),
        ("tanh", [[0, 0, TANH_2], [math.tanh(4 / 3), math.tanh(2 / 3), 0]]),
        ("sigmoid", [[1 / (1 + math.e), 1 / (1 + math.e), 1 / (1 + math.exp(-3))], [0.880797078, 0.731058579, 0.5]]),
    ],
)
def test_nan_counts_as_the_smallest_value_of_its_map(kind: str, expected: list[list[float]]) -> None:
    maps = np.array([[[np.nan, -1, 3], [2, 1, 0]], [[-9, -9, -9], [9, 9, 9]]])
    np.testing.assert_allclose(normalize(maps, kind)[0], expected, atol=1e-9)
    np.testing.assert_array_equal(normalize(maps, kind)[1], normalize(maps[1], kind))  # it does not spread


def test_infinite_counts_as_the_largest_float() -> None:
    maps = np.array([[np.inf, 1.0, -np.inf]], np.float32)
    assert normalize(maps, "relu-max").tolist() == [[1, pytest.approx(1 / 3.4e38, rel=0.01), 0]]
    assert normalize(maps).tolist() == [[1, 0.5, 0]]


def any_maps(dtype: type) -> st.SearchStrategy[np.ndarray]:
    width = np.dtype(dtype).itemsize * 8
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=st.floats(width=width))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_whatever_comes_the_result_is_within_0_and_1(kind: str, dtype: type, data: st.DataObject) -> None:
    maps = data.draw(any_maps(dtype))
    before = maps.copy()
    heat = normalize(maps, kind)
    assert heat.shape == maps.shape
    assert heat.dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert ((heat >= 0) & (heat <= 1)).all()  # so there is no NaN either
    np.testing.assert_array_equal(maps, before)  # and what came in is untouched


def test_whole_numbers_become_float32() -> None:
    assert normalize(np.array([[0, 3]])).dtype == np.float32


def test_an_unknown_kind_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"normalisation 'min-max' is not known\. Did you mean 'minmax'"):
        normalize(np.zeros((2, 2)), "min-max")


def test_rectify_is_relu() -> None:
    assert rectify(np.array([-2.0, 0.0, 3.0])).tolist() == [0, 0, 3]


class TestPostprocess:
    heat = np.array([0.0, 0.1, 0.3, 0.5, 1.0], np.float32)

    def test_without_options_nothing_changes(self) -> None:
        np.testing.assert_array_equal(postprocess(self.heat), self.heat)

    def test_what_is_below_the_threshold_is_zero(self) -> None:
        np.testing.assert_array_equal(postprocess(self.heat, threshold=0.4), np.float32([0, 0, 0, 0.5, 1]))

    def test_what_equals_the_threshold_stays(self) -> None:
        np.testing.assert_array_equal(postprocess(self.heat, threshold=0.5), np.float32([0, 0, 0, 0.5, 1]))

    def test_gain_comes_after_the_threshold_and_is_clamped(self) -> None:
        np.testing.assert_allclose(postprocess(self.heat, threshold=0.2, gain=2.5), [0, 0, 0.75, 1, 1], rtol=1e-6)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_type_is_kept(self, dtype: type) -> None:
        assert postprocess(self.heat.astype(dtype), threshold=0.4, gain=1.5).dtype == dtype


@pytest.mark.parametrize(("threshold", "gain"), [(7, 1), (-0.1, 1), (0, -1), (0, np.inf), (np.nan, 1)])
def test_a_threshold_or_gain_out_of_range(threshold: float, gain: float) -> None:
    with pytest.raises(InputError, match="expected 0 to 1, and a number from 0 on"):
        postprocess(np.zeros(3), threshold=threshold, gain=gain)
