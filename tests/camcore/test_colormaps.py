"""The colour tables against matplotlib and MATLAB's definition, and heat drawn with them."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.colormaps import COLORMAPS, colorize, colormap
from camcore.errors import InputError


def matplotlib_table(name: str) -> np.ndarray:
    return np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(int)


def matlab_jet() -> np.ndarray:
    """The definition of MATLAB's jet(256), channel by channel and entry by entry, from 1 as there."""
    ramp = [k / 64 for k in range(1, 65)] + [1.0] * 63 + [k / 64 for k in range(64, 0, -1)]
    table = np.zeros((256, 3))
    for channel, first in enumerate((97, 33, -31)):  # where the red, green and blue ramp begin
        for offset, value in enumerate(ramp):
            if 1 <= first + offset <= 256:
                table[first + offset - 1, channel] = value
    return table


def test_the_names():
    assert list(COLORMAPS) == ["jet", "turbo", "viridis", "inferno", "gray"]


@pytest.mark.parametrize("name", ["turbo", "viridis", "inferno", "gray"])
def test_a_table_is_matplotlibs(name):
    assert np.abs(colormap(name).astype(int) - matplotlib_table(name)).max() <= 2


def test_jet_is_matlabs():
    np.testing.assert_array_equal(colormap("jet"), np.rint(matlab_jet() * 255))


def test_jet_is_near_matplotlibs_jet_which_has_other_breakpoints():
    difference = np.abs(colormap("jet").astype(int) - matplotlib_table("jet"))
    assert difference.max() <= 34
    assert difference.mean() < 6


@pytest.mark.parametrize("name", list(COLORMAPS))
def test_a_table_is_shared_and_cannot_be_changed(name):
    table = colormap(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    assert colormap(name) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "virids",
            "'virids' is not known; expected one of jet, turbo, viridis, inferno, gray. Did you mean 'viridis'?",
        ),
        ("JET", "Did you mean 'jet'"),
        ("xyzzy", "'xyzzy' is not known; expected one of jet, turbo, viridis, inferno, gray$"),
    ],
)
def test_an_unknown_name(name, text):
    with pytest.raises(InputError, match=text.replace("?", r"\?")):
        colormap(name)
    with pytest.raises(InputError, match="is not known"):
        colorize([0.5], cmap=name)


@pytest.mark.parametrize("name", list(COLORMAPS))
def test_each_level_has_its_colour(name):
    np.testing.assert_array_equal(colorize(np.arange(256) / 255, cmap=name), colormap(name))


def test_heat_is_rounded_to_the_nearest_level():
    heat = np.array([9.4, 9.6, 10.4]) / 255
    assert colorize(heat, cmap="gray")[:, 0].tolist() == [9, 10, 10]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_outside_values_are_clamped_and_nan_is_cold(dtype):
    heat = np.array([-np.inf, -3, 0, np.nan, 1, 7, np.inf], dtype)
    cold, hot = colormap("jet")[[0, 255]]
    np.testing.assert_array_equal(colorize(heat), [cold] * 4 + [hot] * 3)


def test_a_mask_is_cold_and_hot():
    np.testing.assert_array_equal(colorize(np.array([False, True])), colormap("jet")[[0, 255]])


def test_heat_of_bytes_is_refused():
    with pytest.raises(InputError, match=r"heat is of type uint8; expected floating point in \[0, 1\]: divide"):
        colorize(np.array([0, 255], np.uint8))


def test_heat_is_not_changed():
    heat = np.array([np.nan, 2.0, -1.0], np.float32)
    colorize(heat)
    np.testing.assert_array_equal(heat, np.array([np.nan, 2.0, -1.0], np.float32))


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=st.floats()),
    st.sampled_from(list(COLORMAPS)),
)
def test_any_heat_is_drawn_value_by_value(heat, name):
    drawn = colorize(heat, cmap=name)
    assert (drawn.shape, drawn.dtype) == ((*heat.shape, 3), np.uint8)
    for index in np.ndindex(heat.shape):
        np.testing.assert_array_equal(drawn[index], colorize(heat[index], cmap=name))
