"""Overlays against loops in float64, and boxes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import render
from camcore.colormaps import colormap
from camcore.errors import InputError
from camcore.render import LUMA, as_picture, draw_boxes, matlab_overlay, overlay, red_overlay
from camcore.resize import resize

WHITE = (255, 255, 255)


def random_picture(height: int = 9, width: int = 13, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_heat(height: int = 9, width: int = 13, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width))


def plain(height: int, width: int, color: tuple[int, int, int] = (200, 30, 60)) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def assert_off_by_at_most_one(drawn: np.ndarray, expected: np.ndarray) -> None:
    """Float32 may round the other way at a half, which is rare."""
    difference = np.abs(drawn.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


class TestAsPicture:
    def test_rgb_bytes_are_taken_as_they_are(self):
        picture = random_picture()
        assert np.shares_memory(as_picture(picture), picture)
        np.testing.assert_array_equal(as_picture(picture), picture)

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
    def test_grey_fills_the_three_channels(self, shape):
        grey = np.arange(20, dtype=np.uint8).reshape(shape)
        np.testing.assert_array_equal(as_picture(grey), np.stack([grey.reshape(4, 5)] * 3, axis=-1))

    def test_the_fourth_channel_is_opacity_over_white(self):
        rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
        assert as_picture(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]]

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floating_point_is_scaled_and_rounded(self, dtype):
        picture = np.array([[0, 0.25, 0.5, 1]], dtype)
        assert as_picture(picture)[0, :, 0].tolist() == [0, 64, 128, 255]

    def test_rounding_noise_at_the_ends_is_forgiven(self):
        assert as_picture(np.array([[-1e-5, 1 + 1e-5]]))[0, :, 0].tolist() == [0, 255]

    @pytest.mark.parametrize(
        ("picture", "text"),
        [
            (
                np.zeros((3, 8, 9), np.uint8),
                r"shape (3, 8, 9); expected (H, W) or (H, W, 1, 3 or 4): the channels come",
            ),
            (
                np.zeros((2, 8, 9, 3), np.uint8),
                "shape (2, 8, 9, 3); expected (H, W) or (H, W, 1, 3 or 4): give one pic",
            ),
            (np.zeros((5, 8, 2), np.uint8), "shape (5, 8, 2); expected"),
            (np.zeros(5, np.uint8), "shape (5,); expected"),
            (np.zeros((0, 5, 3), np.uint8), "shape (0, 5, 3); expected"),
            (np.zeros((4, 5, 3), np.int64), "type int64; expected uint8, or floating point in [0, 1]: use astype(np."),
            (
                np.array([[-2.0, 2.5]]),
                "runs from -2 to 2.5; a floating point picture is within [0, 1]: divide by 255, or",
            ),
            (np.array([[0.0, 255.0]]), "runs from 0 to 255"),
            (np.array([[0.0, np.nan]]), "runs from nan to nan"),
        ],
    )
    def test_what_is_not_a_picture(self, picture, text):
        with pytest.raises(InputError, match=re.escape(text)):
            as_picture(picture)


class TestOverlay:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
    def test_is_the_blend_of_picture_and_colour(self, alpha):
        picture, heat = random_picture(), random_heat()
        expected = np.zeros(picture.shape)
        for y, x, c in np.ndindex(picture.shape):
            colour = float(colormap("turbo")[int(heat[y, x] * 255 + 0.5), c])
            expected[y, x, c] = int((1 - alpha) * float(picture[y, x, c]) + alpha * colour + 0.5)
        assert_off_by_at_most_one(overlay(picture, heat, cmap="turbo", alpha=alpha), expected)

    def test_with_alpha_heat_the_opacity_is_the_heat(self):
        picture, heat = random_picture(), np.round(random_heat() * 255) / 255
        expected = np.zeros(picture.shape)
        for y, x, c in np.ndindex(picture.shape):
            colour = float(colormap("jet")[round(heat[y, x] * 255), c])
            expected[y, x, c] = int((1 - heat[y, x]) * float(picture[y, x, c]) + heat[y, x] * colour + 0.5)
        assert_off_by_at_most_one(overlay(picture, heat, alpha="heat"), expected)

    def test_with_alpha_heat_a_cold_region_shows_the_plain_picture(self):
        heat = np.array([[0.0, 1.0]])
        assert overlay(plain(1, 2, WHITE), heat, alpha="heat").tolist() == [[[255, 255, 255], [128, 0, 0]]]

    def test_a_small_map_is_resized_smoothly_to_the_picture(self):
        heat = random_heat(7, 7)
        drawn = overlay(plain(31, 45), heat, cmap="gray", alpha=1)
        assert_off_by_at_most_one(drawn[..., 1], np.rint(resize(heat, (31, 45)) * 255))

    def test_nan_and_outside_values_stay_where_they_are(self):
        heat = np.array([[0.5, 0.5, 0.5], [np.nan, 0.5, np.inf], [-7, 0.5, 9.0]])
        tame = np.array([[0.5, 0.5, 0.5], [0, 0.5, 1], [0, 0.5, 1]])
        picture = random_picture(12, 12)
        np.testing.assert_array_equal(overlay(picture, heat), overlay(picture, tame))

    def test_picture_and_heat_are_not_changed(self):
        picture, heat = random_picture(), random_heat().astype(np.float32)
        before = picture.copy(), heat.copy()
        overlay(picture, heat)
        matlab_overlay(picture, heat, threshold=0.6)
        np.testing.assert_array_equal(picture, before[0])
        np.testing.assert_array_equal(heat, before[1])

    @given(
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(width=32)),
        st.one_of(st.just("heat"), st.floats(0, 1)),
    )
    @settings(max_examples=50, deadline=None)
    def test_the_shape_is_that_of_the_picture_whatever_the_heat(self, size, heat, alpha):
        for drawn in (overlay(random_picture(*size), heat, alpha=alpha), matlab_overlay(random_picture(*size), heat)):
            assert (drawn.shape, drawn.dtype) == ((*size, 3), np.uint8)

    @pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), "hot"])
    def test_an_alpha_out_of_range(self, alpha):
        with pytest.raises(InputError, match=re.escape(f"alpha is {alpha!r}; expected a number in [0, 1] or 'heat'")):
            overlay(random_picture(), random_heat(), alpha=alpha)

    @pytest.mark.parametrize("shape", [(2, 7, 7), (7,), (0, 7)])
    def test_heat_that_is_not_one_map(self, shape):
        text = f"heat has shape {shape}; expected one map (h, w): draw the maps one at a time"
        for draw in (overlay, matlab_overlay):
            with pytest.raises(InputError, match=re.escape(text)):
                draw(random_picture(), np.zeros(shape))

    def test_an_unknown_colormap(self):
        with pytest.raises(InputError, match="colormap 'jett' is not known"):
            overlay(random_picture(), random_heat(), cmap="jett")


class TestMatlabOverlay:
    @pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7])
    def test_is_the_formula_of_the_example(self, threshold):
        picture, heat = random_picture(), random_heat()
        summed = np.zeros(picture.shape)
        for y, x, c in np.ndindex(picture.shape):
            level = 0 if heat[y, x] < threshold else int(heat[y, x] * 255 + 0.5)
            red, green, blue = (float(value) for value in picture[y, x])
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            summed[y, x, c] = float(colormap("jet")[level, c]) * level / 255 + grey / 2
        expected = np.rint((summed - summed.min()) / (summed.max() - summed.min()) * 255)
        assert_off_by_at_most_one(matlab_overlay(picture, heat, threshold=threshold), expected)

    def test_the_whole_range_is_used(self):
        drawn = matlab_overlay(random_picture(), random_heat())
        assert (drawn.min(), drawn.max()) == (0, 255)

    def test_the_threshold_itself_is_kept(self):
        picture = plain(1, 2, (0, 0, 0))
        assert matlab_overlay(picture, np.array([[0.25, 0.5]], np.float32), threshold=0.5)[0, 0].max() == 0
        assert matlab_overlay(picture, np.array([[0.25, 0.5]], np.float32), threshold=0.5)[0, 1].max() == 255

    def test_without_heat_the_grey_picture_is_stretched(self):
        ramp = np.arange(0, 101, 20, dtype=np.uint8)[None]
        assert matlab_overlay(ramp, np.zeros((2, 2)))[0, :, 1].tolist() == [0, 51, 102, 153, 204, 255]

    @pytest.mark.parametrize(("grey", "expected"), [(0, 0), (100, 50), (255, 128)])
    def test_a_constant_sum_stays_constant(self, grey, expected):
        drawn = matlab_overlay(np.full((4, 5), grey, np.uint8), np.full((3, 3), np.nan))
        np.testing.assert_allclose(drawn, np.full((4, 5, 3), expected), atol=1 if grey == 255 else 0)

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_a_threshold_out_of_range(self, threshold):
        with pytest.raises(InputError, match=re.escape(f"threshold is {threshold}; expected a number in [0, 1]")):
            matlab_overlay(random_picture(), random_heat(), threshold=threshold)


class TestRedOverlay:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, "heat"])
    def test_heat_is_blended_into_the_red_of_the_grey_picture(self, alpha):
        picture, heat = random_picture(), random_heat()
        drawn = red_overlay(picture, heat, alpha=alpha)
        grey, weight = picture @ LUMA.astype(np.float64), heat * (1 if alpha == "heat" else alpha)
        np.testing.assert_allclose(drawn[..., 0], grey + weight * (255 - grey), atol=0.51)
        for n in (1, 2):
            np.testing.assert_allclose(drawn[..., n], grey * (1 - 0.75 * weight), atol=0.51)

    @pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 255), (120, 130, 60)])
    def test_heat_is_seen_on_every_colour_and_the_cold_is_grey(self, color):
        cold, hot = red_overlay(np.full((1, 2, 3), color, np.uint8), [[0.0, 1.0]])[0].astype(int)
        assert np.ptp(cold) == 0
        assert hot[0] == 255
        assert hot[0] - hot[1:].max() > 150
        assert np.abs(hot - cold).sum() > 200

    def test_the_picture_stays_and_a_small_map_is_resized(self):
        picture, heat = random_picture(40, 30), random_heat(5, 5)
        before = picture.copy()
        drawn = red_overlay(np.zeros((40, 30, 3), np.uint8), heat)
        assert_off_by_at_most_one(drawn[..., 0], np.rint(resize(heat, (40, 30)) * 255))
        red_overlay(picture, heat)
        np.testing.assert_array_equal(picture, before)

    def test_what_is_not_given_right_is_answered(self):
        with pytest.raises(InputError, match=r"alpha is 1.5; expected a number in \[0, 1\] or 'heat'"):
            red_overlay(random_picture(), random_heat(), alpha=1.5)
        with pytest.raises(InputError, match="heat has shape"):
            red_overlay(random_picture(), np.zeros((1, 4, 4)))


class TestBoxes:
    def test_the_line_lies_inside_the_box_and_the_halo_on_both_sides(self):
        drawn = draw_boxes(plain(20, 20), [(5, 6, 15, 16)], color=(1, 2, 3), width=1)
        expected = plain(20, 20)
        expected[5:17, 4:16] = render._HALO
        expected[6:16, 5:15] = (1, 2, 3)
        expected[7:15, 6:14] = render._HALO
        expected[8:14, 7:13] = plain(1, 1)
        np.testing.assert_array_equal(drawn, expected)

    def test_the_line_is_as_wide_as_asked(self):
        drawn = draw_boxes(plain(60, 60), [(10, 10, 50, 50)], width=4)
        assert (drawn[30] == 255).all(axis=-1).nonzero()[0].tolist() == [10, 11, 12, 13, 46, 47, 48, 49]

    def test_the_line_grows_with_the_picture(self):
        def white(side: int) -> int:
            drawn = draw_boxes(plain(side, side), [(side // 4, side // 4, side // 2, side // 2)])
            return int((drawn[side // 3] == 255).all(axis=-1).sum()) // 2

        assert [white(side) for side in (100, 390, 780)] == [2, 3, 6]

    def test_what_follows_the_corners_is_ignored(self):
        picture = random_picture(30, 30)
        np.testing.assert_array_equal(
            draw_boxes(picture, [(3, 4, 20, 21, 0.9, 7)]), draw_boxes(picture, np.array([[3.2, 3.9, 20.4, 20.6]]))
        )

    @given(st.lists(st.tuples(*[st.integers(-(10**9), 10**9) | st.integers(-40, 40)] * 4), max_size=3))
    @settings(deadline=None)
    def test_only_the_inside_of_the_picture_is_drawn_on(self, boxes):
        boxes = [(x0, y0, x0 + abs(w) + 1, y0 + abs(h) + 1) for x0, y0, w, h in boxes]
        wide = np.zeros((120, 120, 3), np.uint8)
        wide[50:70, 50:70] = plain(20, 20)
        moved = [(x0 + 50, y0 + 50, x1 + 50, y1 + 50) for x0, y0, x1, y1 in boxes]
        expected = draw_boxes(wide, moved, width=2)[50:70, 50:70]
        np.testing.assert_array_equal(draw_boxes(plain(20, 20), boxes, width=2), expected)

    def test_a_box_smaller_than_the_line_is_filled_and_no_more(self):
        drawn = draw_boxes(plain(30, 30), [(10, 12, 12, 15), (20.1, 20.1, 20.4, 20.4)], width=5)
        white = np.argwhere((drawn == 255).all(axis=-1)).tolist()
        assert white == [[y, x] for y in (12, 13, 14) for x in (10, 11)] + [[20, 20]]

    def test_the_picture_is_copied(self):
        picture = plain(20, 20)
        drawn = draw_boxes(picture, [])
        np.testing.assert_array_equal(drawn, picture)
        assert not np.shares_memory(drawn, picture)

    def test_grey_and_read_only_pictures_are_drawn_on_too(self):
        grey = np.zeros((20, 20), np.uint8)
        grey.setflags(write=False)
        assert (draw_boxes(grey, [(2, 2, 9, 9)])[2, 2:9] == 255).all()

    @pytest.mark.parametrize(
        "box", [(1, 2, 3), (5, 5, 5, 9), (5, 9, 8, 2), (0, 0, float("nan"), 4), (0, 0, float("inf"), 4)]
    )
    def test_what_is_not_a_box(self, box):
        text = f"box is {[float(v) for v in box]}; expected finite (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1"
        with pytest.raises(InputError, match=re.escape(text)):
            draw_boxes(plain(9, 9), [box])

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            ({"width": 0}, "width is 0; expected at least 1"),
            ({"color": (1, 2)}, "color is (1, 2); expected three numbers (R, G, B), each 0..255"),
            ({"color": (1, 2, 256)}, "color is (1, 2, 256); expected"),
        ],
    )
    def test_options_out_of_range(self, option, text):
        with pytest.raises(InputError, match=re.escape(text)):
            draw_boxes(plain(9, 9), [], **option)


def test_importing_needs_no_pillow():
    code = "import sys, camcore.render; sys.exit('PIL' in sys.modules)"
    root = Path(render.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
