"""Colours that keep apart and outlines that are where they say."""

import numpy as np
import pytest
from camcore_tools.merchandise.parts import arc, colour_apart, lathed, random_colour, rounded, shade, turned


@pytest.mark.parametrize("seed", range(5))
def test_colours_are_in_range_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    colour = random_colour(rng)
    assert colour.shape == (3,)
    assert ((colour >= 0) & (colour <= 1)).all()
    assert np.abs(colour_apart(rng, colour) - colour).sum() > 0.3


def test_shade_goes_from_black_over_the_colour_to_white() -> None:
    colour = np.array([0.2, 0.4, 1.0])
    np.testing.assert_allclose([shade(colour, factor) for factor in (0, 1, 2)], [np.zeros(3), colour, np.ones(3)])


def test_an_arc_is_on_its_ellipse() -> None:
    x, y = arc(1, 2, 3, 4, 30, 200, steps=9).T
    np.testing.assert_allclose(((x - 1) / 3) ** 2 + ((y - 2) / 4) ** 2, 1)


def test_a_rounded_rectangle_fills_its_sides_and_not_its_corners() -> None:
    points = rounded(0.6, 0.9, 0.1)
    np.testing.assert_allclose(np.abs(points).max(axis=0), (0.6, 0.9))
    assert np.abs(points).sum(axis=1).max() < 1.5 - 0.05


def test_turned_keeps_lengths() -> None:
    np.testing.assert_allclose(turned(np.pi / 2) @ (1, 0), (0, 1), atol=1e-12)


def test_a_lathed_body_stays_within_its_radius() -> None:
    for part in lathed((-1, 0, 1), (0.2, 0.3, 0.1), np.array([0.5, 0.5, 0.5])):
        assert np.abs(part.points).max(axis=0)[1] <= 0.3
