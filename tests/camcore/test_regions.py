"""Masks and boxes against a naive flood fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from camcore import Box, InputError, boxes, mask

Pixels = list[tuple[int, int]]
HEAT = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 0.1, 0.25, 0.5, 1])
)


def flood_fill(heat: np.ndarray, threshold: float) -> list[Pixels]:
    """The 8-connected sets of pixels above zero and not below ``threshold`` times the maximum, largest first."""
    hot = {u for u in np.ndindex(*heat.shape) if heat[u] > 0 and heat[u] >= np.float32(threshold) * heat.max()}
    found = []
    for start in np.ndindex(*heat.shape):
        component, waiting = [], [start]
        while waiting:
            y, x = waiting.pop()
            if (y, x) in hot:
                hot.remove((y, x))
                component.append((y, x))
                waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        found += [component] if component else []
    return sorted(found, key=len, reverse=True)


def box_of(heat: np.ndarray, pixels: Pixels) -> Box:
    rows, columns = zip(*pixels, strict=True)
    return Box(min(columns), min(rows), max(columns) + 1, max(rows) + 1, max(float(heat[u]) for u in pixels))


@settings(deadline=None)
@given(HEAT, st.sampled_from([0, 0.1, 0.2, 0.5, 0.75, 1]))
def test_boxes_and_mask_are_those_of_a_flood_fill(heat: np.ndarray, threshold: float) -> None:
    components = flood_fill(heat, threshold)
    assert boxes(heat, threshold) == [box_of(heat, pixels) for pixels in components]
    assert sorted(zip(*np.nonzero(mask(heat, threshold)), strict=True)) == sorted(
        pixel for pixels in components for pixel in pixels
    )


def test_diagonal_neighbours_are_connected() -> None:
    assert boxes(np.eye(5)) == [Box(0, 0, 5, 5, 1.0)]


def test_the_largest_comes_first_even_if_it_is_cooler() -> None:
    heat = np.zeros((8, 8))
    heat[0, 0], heat[4:7, 4:6] = 1, 0.4
    assert boxes(heat) == [Box(4, 4, 6, 7, 0.4), Box(0, 0, 1, 1, 1.0)]


def test_the_score_is_of_the_component_and_not_of_its_box() -> None:
    heat = np.zeros((5, 5))
    heat[0, :], heat[:, 0], heat[4, 4] = 0.5, 0.5, 1  # an angle, whose box holds the hottest pixel
    assert boxes(heat) == [Box(0, 0, 5, 5, 0.5), Box(4, 4, 5, 5, 1.0)]


def test_a_map_of_zeros_has_none() -> None:
    assert boxes(np.zeros((4, 4))) == []
    assert not mask(np.zeros((4, 4)), 0.0).any()


def test_the_threshold_is_a_share_of_the_maximum_of_each_map() -> None:
    heat = np.array([[[1.0, 0.4]], [[0.1, 0.04]]])
    assert mask(heat, 0.5).tolist() == [[[True, False]], [[True, False]]]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, 128, float("nan")])
def test_a_threshold_that_is_no_share(threshold: float) -> None:
    for function in (mask, boxes):
        with pytest.raises(InputError, match=f"threshold is {threshold}; expected a share of the maximum, 0 to 1"):
            function(np.ones((2, 2)), threshold)


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4)])
def test_boxes_need_one_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"boxes need one map \(H, W\), got shape "):
        boxes(np.ones(shape))
