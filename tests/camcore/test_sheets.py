"""Captions and sheets: order, sizes, text within its tile, and letters that the built-in font lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import lettering, sheets
from camcore.errors import InputError
from camcore.sheets import caption_lines, compact_grid, grid, strip

WHITE = (255, 255, 255)


def random_picture(height: int = 9, width: int = 13, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(height: int, width: int, color: tuple[int, int, int] = (200, 30, 60)) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


class TestCaptionLines:
    def test_the_most_probable_come_first(self):
        names = ["tench, Tinca tinca", "Egyptian cat", "tabby, tabby cat", "lynx"]
        assert caption_lines(names, [0.02, 0.93, 0.04, 0.01]) == ["Egyptian cat 0.93", "tabby 0.04", "tench 0.02"]

    def test_equal_probabilities_keep_their_order(self):
        names = [f"class {k}" for k in range(100)]
        expected = [f"class {k} 0.02" for k in range(1, 100, 2)] + [f"class {k} 0.00" for k in range(0, 100, 2)]
        assert caption_lines(names, np.tile([0.0, 0.02], 50), 100) == expected

    def test_no_more_lines_than_classes(self):
        assert caption_lines(["a"], [1.0], top=9) == ["a 1.00"]

    def test_a_long_name_is_shortened(self):
        name = "electric locomotive with a pantograph"
        assert caption_lines([name], [0.5]) == ["electric locomotive with… 0.50"]
        assert caption_lines(["x" * 26], [0.5]) == ["x" * 26 + " 0.50"]
        assert caption_lines(["x" * 27], [0.5]) == ["x" * 25 + "… 0.50"]

    def test_what_is_not_printed_is_taken_out(self):
        assert caption_lines(["big\n\tred\x00 \x1bcat\u202e\ud800"], [0.5]) == ["big red cat 0.50"]

    def test_one_probability_for_each_name(self):
        with pytest.raises(InputError, match=r"probabilities have shape \(3,\) for 2 names; expected one for each"):
            caption_lines(["a", "b"], [0.1, 0.2, 0.7])

    def test_at_least_one_line(self):
        with pytest.raises(InputError, match="top is 0; expected at least 1"):
            caption_lines(["a"], [1.0], top=0)


def drawn_size(sheet: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of what is drawn in ``color`` (scaling keeps a plain picture plain)."""
    rows, columns = np.nonzero((sheet == color).all(axis=-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


class TestGrid:
    def test_pictures_keep_their_aspect_ratio(self):
        wide, high = (200, 30, 60), (30, 60, 200)
        sheet = grid([plain(50, 100, wide), plain(90, 30, high)], tile=60)
        assert drawn_size(sheet, wide) == (30, 60)
        assert drawn_size(sheet, high) == (60, 20)

    def test_a_picture_of_the_size_of_the_tile_is_untouched(self):
        picture = random_picture(40, 64)
        np.testing.assert_array_equal(grid([picture], tile=64, margin=5)[5:-5, 5:-5], picture)

    @pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))])
    def test_the_sheet_is_near_square(self, count, shape):
        sheet = grid([plain(20, 20)] * count, tile=20, margin=3)
        assert sheet.shape == (3 + 23 * shape[0], 3 + 23 * shape[1], 3)

    @given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 6), st.booleans())
    @settings(max_examples=30, deadline=None)
    def test_the_pictures_stand_in_order(self, count, columns, margin, captioned):
        colors = [(10 * k, 255 - 10 * k, 100) for k in range(count)]
        captions = ["x"] * count if captioned else None
        sheet = grid([plain(8, 8, c) for c in colors], captions, columns=columns, tile=8, margin=margin)
        at = [tuple(np.argwhere((sheet == color).all(axis=-1))[0]) for color in colors]
        assert at == sorted(at)
        assert len({y for y, _ in at}) == -(-count // min(columns, count))

    def test_the_tile_follows_the_largest_picture_within_bounds(self):
        sizes = [grid([plain(10, side)], margin=0).shape[1] for side in (50, 224, 1000)]
        assert sizes == [192, 224, 384]

    def test_a_low_picture_stands_on_its_caption(self):
        low = (200, 30, 60)
        sheet = grid([plain(40, 40, (1, 1, 1)), plain(10, 40, low)], tile=40, margin=0)
        assert (sheet[30:, 40:] == low).all()
        assert (sheet[:30, 40:] == 255).all()

    def test_narrow_pictures_move_together_as_far_as_captions_allow(self):
        pictures = [plain(80, 20)] * 2
        assert grid(pictures, tile=80, margin=0).shape[1] == 2 * 20
        assert grid(pictures, ["a", "b"], tile=80, margin=0).shape[1] == 2 * 60

    def test_a_caption_of_a_million_letters_is_drawn(self):
        drawn = [grid([plain(32, 32)], ["W" * count], tile=32) for count in (500, 1_000_001)]
        np.testing.assert_array_equal(*drawn)

    def test_what_is_left_over_is_background(self):
        sheet = grid([plain(10, 10)] * 3, columns=2, tile=10, margin=2, background=(1, 2, 3))
        assert (sheet[12:, 14:] == (1, 2, 3)).all()
        assert (sheet[:2] == (1, 2, 3)).all()

    @pytest.mark.parametrize("background", [WHITE, (20, 20, 20)])
    def test_the_caption_stands_out_below_its_picture(self, background):
        sheet = grid([plain(100, 100)], ["cat 0.93"], tile=100, margin=0, background=background).astype(int)
        below = np.abs(sheet[100:] - background).max(axis=-1)
        assert below.max() > 200
        ink_rows, ink_columns = np.nonzero(below > 100)
        assert ink_rows.min() >= 6  # not on the picture
        assert ink_rows.max() < len(below) - 6  # nor cut off below
        assert abs(ink_columns.min() - (99 - ink_columns.max())) <= 2  # centred

    def test_each_line_has_the_same_height_and_all_are_drawn(self):
        heights = [grid([plain(64, 64)], [["Äg"] * n], tile=64).shape[0] for n in (1, 2, 3)]
        assert heights[2] - heights[1] == heights[1] - heights[0] >= 12
        one, three = (grid([plain(64, 64)], [["no"] * n], tile=64, margin=0)[64:] for n in (1, 3))
        assert (three < 128).sum() == 3 * (one < 128).sum() > 0

    def test_a_caption_that_is_too_wide_stays_within_its_tile_and_keeps_its_number(self):
        font, _ = lettering.typeset([], 12)
        text = lettering.narrowed("electric locomotive with a very long pantograph 0.93", 150, font)
        assert re.fullmatch(r"electric .*… 0\.93", text)
        assert 120 < font.getlength(text) <= 150
        sheet = grid([plain(192, 192)] * 2, ["W" * 1000, ""], tile=192, margin=12)
        assert (sheet[:, :12] == 255).all()
        assert (sheet[:, 204:216] == 255).all()

    @given(st.text(alphabet=st.characters(), max_size=30))
    @settings(max_examples=60, deadline=None)
    def test_any_text_is_drawn(self, text):
        sheet = grid([plain(32, 32)], [["one", text]], tile=32, margin=0)
        assert sheet.shape == grid([plain(32, 32)], [["one", "two"]], tile=32, margin=0).shape

    def test_a_line_break_in_a_caption_is_a_space(self):
        drawn = [grid([plain(64, 64)], [text], tile=64) for text in ("a\nb", "a b", "\x00a \x1bb\u200b")]
        np.testing.assert_array_equal(drawn[0], drawn[1])
        np.testing.assert_array_equal(drawn[2], drawn[1])

    @pytest.mark.parametrize(
        ("arguments", "options", "text"),
        [
            (([],), {}, "there are no pictures; expected at least one"),
            (([plain(5, 5)], ["a", "b"]), {}, "captions: 2 for 1 pictures; expected a sequence with one for each"),
            (([plain(5, 5)] * 3, "abc"), {}, "captions: one string for 3 pictures"),
            (([plain(5, 5)],), {"columns": 0}, "columns is 0; expected at least 1"),
            (([plain(5, 5)],), {"tile": 0}, "tile is 0; expected at least 1"),
            (([plain(5, 5)],), {"margin": -1}, "margin is -1; expected at least 0"),
            (([plain(5, 5)],), {"background": (0, 0)}, "background is (0, 0); expected three numbers"),
        ],
    )
    def test_arguments_out_of_range(self, arguments, options, text):
        with pytest.raises(InputError, match=re.escape(text)):
            grid(*arguments, **options)


class TestStrip:
    def test_is_one_row(self):
        pictures = [random_picture(20, 30, seed) for seed in range(5)]
        np.testing.assert_array_equal(
            strip(pictures, list("abcde"), tile=30), grid(pictures, list("abcde"), columns=5, tile=30, margin=6)
        )

    def test_without_pictures(self):
        with pytest.raises(InputError, match="there are no pictures"):
            strip([])


class TestCompactGrid:
    def test_equal_pictures_stand_edge_to_edge(self):
        pictures = [random_picture(12, 16, seed) for seed in range(4)]
        expected = np.concatenate([np.concatenate(pictures[:2], axis=1), np.concatenate(pictures[2:], axis=1)], axis=0)
        np.testing.assert_array_equal(compact_grid(pictures, tile=16), expected)

    @given(st.lists(st.tuples(st.integers(10, 60), st.integers(10, 60)), min_size=1, max_size=7), st.integers(1, 4))
    @settings(max_examples=40, deadline=None)
    def test_pictures_of_any_aspect_ratio_leave_no_gap(self, sizes, columns):
        sheet = compact_grid([plain(*size) for size in sizes], columns=columns, tile=40)
        columns = min(columns, len(sizes))
        assert sheet.shape[1] == 40 * columns
        last = len(sizes) % columns
        gap = (sheet == 255).all(axis=-1)
        full_rows = ~gap.any(axis=1)
        assert (sheet[full_rows] == plain(1, 1)).all()
        if not last:
            assert full_rows.all()
        else:
            assert not gap[~full_rows][:, : 40 * last].any()
            assert gap[~full_rows][:, 40 * last :].all()

    def test_the_aspect_ratio_is_kept(self):
        wide, high = (200, 30, 60), (30, 60, 200)
        sheet = compact_grid([plain(50, 150, wide), plain(80, 80, high)], tile=100)
        assert drawn_size(sheet, wide) == (50, 150)
        assert drawn_size(sheet, high) == (50, 50)

    @pytest.mark.parametrize(
        ("pictures", "options", "text"),
        [
            ([], {}, "there are no pictures"),
            ([plain(5, 5)], {"columns": -1}, "columns is -1"),
            ([plain(5, 5)], {"tile": 0}, "tile is 0"),
        ],
    )
    def test_arguments_out_of_range(self, pictures, options, text):
        with pytest.raises(InputError, match=text):
            compact_grid(pictures, **options)


def test_importing_needs_no_pillow():
    code = "import sys, camcore.sheets; sys.exit('PIL' in sys.modules)"
    root = Path(sheets.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
