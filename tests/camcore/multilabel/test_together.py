"""Colours that mean classes: palette, blend and legend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore import InputError
from camcore.multilabel.together import PALETTE, ClassColors, blend, legend

LUMA = np.array([0.299, 0.587, 0.114])


def cielab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(linear @ to_xyz.T / (0.9505, 1, 1.089)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def picture(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestColors:
    @given(st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), max_size=5))
    def test_all_of_a_picture_are_different(self, pictures: list[list[int]]) -> None:
        colors = ClassColors()
        for classes in pictures:
            assert len(set(colors.of(classes))) == len(classes)

    @given(st.lists(st.lists(st.integers(0, len(PALETTE) - 1), unique=True), max_size=8))
    def test_as_long_as_there_are_enough_a_class_keeps_its_own(self, pictures: list[list[int]]) -> None:
        colors, seen = ClassColors(), {}
        for classes in pictures:
            for c, color in zip(classes, colors.of(classes), strict=True):
                assert seen.setdefault(c, color) == color
                assert color in PALETTE

    def test_the_first_of_many_are_those_of_few(self) -> None:
        """The mask of a picture has more classes than are drawn, in the same colours."""
        colors = ClassColors()
        colors.of(range(5, 12))
        few = colors.of([20, 5, 21, 6])
        assert colors.of([20, 5, 21, 6, 30, 31, 32, 33])[:4] == few

    def test_they_are_told_apart_without_red_or_green_cones(self) -> None:
        """In the simulation of F. Viénot et al., doi:10.1002/(SICI)1520-6378(199908)24:4<243::AID-COL5>3.0.CO;2-3."""
        to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
        without = {
            "red": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
            "green": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
        }
        linear = (np.array(PALETTE) / 255) ** 2.2
        for lost in without.values():
            seen = np.clip(linear @ (np.linalg.inv(to_lms) @ lost @ to_lms).T, 0, 1)
            lab = cielab(seen)
            apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
            assert apart[~np.eye(len(PALETTE), dtype=bool)].min() > 15  # 2.3 is just to be seen


class TestBlend:
    def test_each_pixel(self) -> None:
        """The picture nearly grey and darker; over it the mean of the colours, weighted by the heats to the fourth."""
        shown, colors, alpha = picture(), [(230, 159, 0), (0, 114, 178), (10, 200, 30)], 0.7
        heats = np.random.default_rng(1).random((3, 6, 8)).astype(np.float32)
        drawn = blend(shown, heats, colors, alpha=alpha, outline=None)
        for y, x in np.ndindex(6, 8):
            plain, h = shown[y, x].astype(float), heats[:, y, x].astype(float)
            below = (0.2 * plain + 0.8 * (plain @ LUMA)) * 0.8
            paint = sum(w * np.array(c) for w, c in zip(h**4, colors, strict=True)) / (h**4).sum()
            expected = (1 - alpha * h.max()) * below + alpha * h.max() * paint
            np.testing.assert_allclose(drawn[y, x], expected, atol=0.51)

    def test_where_there_is_no_heat_there_is_no_colour(self) -> None:
        shown = picture()
        cold = blend(shown, np.zeros((2, 3, 4)), PALETTE[:2])
        np.testing.assert_array_equal(cold, blend(shown, np.zeros((0, 3, 4)), []))
        np.testing.assert_array_equal(cold, blend(shown, np.full((1, 3, 4), np.nan), PALETTE[:1]))
        assert cold.mean() < shown.mean()

    @pytest.mark.parametrize("alpha", [1.0, "heat"])
    def test_full_heat_is_the_colour(self, alpha: Any) -> None:
        drawn = blend(picture(), np.ones((1, 3, 4)), [(10, 20, 30)], alpha=alpha, outline=None)
        assert (drawn == (10, 20, 30)).all()

    def test_the_stronger_one_has_its_colour(self) -> None:
        drawn = blend(picture(), [np.full((3, 4), 1.0), np.full((3, 4), 0.5)], PALETTE[:2], alpha=1, outline=None)
        expected = (np.array(PALETTE[0]) + np.array(PALETTE[1]) / 16) / (1 + 1 / 16)
        np.testing.assert_allclose(drawn[0, 0], expected, atol=0.51)

    def test_the_line_is_around_the_heat_and_not_along_the_border(self) -> None:
        heat = np.zeros((1, 40, 60))
        heat[0, 10:30, 20:60] = 1
        drawn = blend(np.full((40, 60, 3), 128, np.uint8), heat, [(250, 10, 20)], alpha=0, outline=0.5)
        line = (drawn == (250, 10, 20)).all(axis=2)
        expected = heat[0] > 0
        expected[12:28, 22:] = False  # two pixels wide, open to the right
        np.testing.assert_array_equal(line, expected)

    @pytest.mark.parametrize(
        ("heats", "options", "text"),
        [
            (np.zeros((2, 3, 4)), {}, r"heats have shape \(2, 3, 4\) for 1 colours; expected \(T, h, w\), T as many"),
            (np.zeros((3, 4)), {}, "expected"),
            (np.zeros((1, 3, 4)), {"alpha": 1.5}, r"alpha is 1.5; expected a number in \[0, 1\]"),
            (np.zeros((1, 3, 4)), {"outline": -1}, "outline is -1"),
        ],
    )
    def test_what_cannot_be_drawn(self, heats: np.ndarray, options: dict[str, float], text: str) -> None:
        with pytest.raises(InputError, match=text):
            blend(picture(), heats, PALETTE[:1], **options)


class TestLegend:
    def test_nothing_to_say(self) -> None:
        assert legend([], [], 480).shape == (0, 480, 3)

    def test_each_name_stands_on_its_colour(self) -> None:
        drawn = legend(["dog 0.93", "cat 0.81"], PALETTE[:2], 480)
        counts = [(drawn == color).all(axis=2).sum() for color in PALETTE]
        assert counts[0] > 1000
        assert counts[1] > 1000
        assert counts[2:] == [0] * 5
        assert (drawn[0] == 255).all()

    def test_names_that_do_not_fit_go_on_in_the_next_row(self) -> None:
        lines = [f"a rather long name {i} 0.5" for i in range(5)]
        one, five = legend(lines[:1], PALETTE[:1], 480), legend(lines, PALETTE[:5], 480)
        assert five.shape[0] > 2.5 * one.shape[0]
        last = five[-one.shape[0] :]
        assert (last == PALETTE[4]).all(axis=2).any()

    def test_one_that_is_wider_than_the_picture_is_shortened(self) -> None:
        drawn = legend(["x" * 400 + " 0.93"], PALETTE[:1], 240)
        assert drawn.shape[1] == 240
        assert (drawn[:, -3:] == 255).any()

    def test_letters_are_dark_or_light_as_the_colour_asks(self) -> None:
        """The contrast of black or white letters on each colour is 4.5 at least, as WCAG 2 asks of normal text."""

        def luminance(color: Any) -> float:
            share = np.array(color) / 255
            linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
            return float(linear @ (0.2126, 0.7152, 0.0722))

        for color in PALETTE:
            inside = legend(["mmmmmm 0.93"], [color], 480)[12:28, 16:80]
            letters = [luminance(c) for c in np.unique(inside.reshape(-1, 3), axis=0)]
            own = luminance(color)
            assert max((own + 0.05) / (min(letters) + 0.05), (max(letters) + 0.05) / (own + 0.05)) > 4.5

    def test_names_in_other_scripts(self) -> None:
        drawn = legend(["кошка 0.93", "γάτα 0.50"], PALETTE[:2], 480)
        assert not np.array_equal(drawn, legend(["????? 0.93", "???? 0.50"], PALETTE[:2], 480))
