"""Tiles as large as can be, overlays inside them, and frames that tell right from wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from drifting import drifting
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.films.montage import Montage, best_layout, enlarged, framed
from camcore.films.theme import BAD, GOOD, GROUND
from camcore.render import overlay

BOX = (300, 240)


def amount(picture: Any, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


class TestLayout:
    @given(st.integers(1, 24), st.floats(0.1, 10), st.integers(200, 900), st.integers(200, 900))
    def test_the_tiles_fit_and_no_other_number_of_columns_makes_them_larger(
        self, count: int, aspect: float, width: int, height: int
    ) -> None:
        layout = best_layout(count, aspect, (width, height), caption=15, gap=6)
        assert layout.columns * layout.rows >= count
        if layout.width > 8 and layout.height > 8:
            assert layout.size[0] <= width
            assert layout.size[1] <= height
            assert layout.height / layout.width == pytest.approx(aspect, abs=1.1 * max(1, aspect) / layout.width)
        others = [
            best_layout(count, aspect, (width, height), caption=15, gap=6, columns=c) for c in range(1, count + 1)
        ]
        assert layout.width == max(other.width for other in others)

    @given(st.integers(1, 24), st.integers(1, 30))
    def test_tiles_do_not_overlap(self, count: int, columns: int) -> None:
        layout = best_layout(count, 1.0, (500, 400), caption=15, gap=6, columns=columns)
        assert layout.columns == min(columns, count)
        places = [layout.place(n) for n in range(count)]
        assert len(set(places)) == count
        assert max(x for x, _ in places) + layout.width == layout.size[0]
        assert max(y for _, y in places) + layout.height + layout.caption == layout.size[1]

    def test_columns_below_one(self) -> None:
        with pytest.raises(InputError, match="columns is 0; expected at least 1"):
            best_layout(3, 1.0, BOX, caption=15, gap=6, columns=0)


class TestMontage:
    def test_each_tile_is_the_overlay_of_its_picture(self) -> None:
        recording = drifting(frames=3, pictures=4)
        montage = Montage(recording, BOX, cmap="viridis", alpha=0.7)
        drawn, edge = montage.draw(1), montage._border
        heats = recording.heatmaps(1, montage._inner)
        for n in range(4):
            left, top = montage.layout.place(n)
            inside = drawn[top + edge : top + edge + heats.shape[1], left + edge : left + edge + heats.shape[2]]
            expected = overlay(enlarged(recording.pictures[n], *montage._inner), heats[n], cmap="viridis", alpha=0.7)
            np.testing.assert_array_equal(inside[3:-3, 3:-3], expected[3:-3, 3:-3])  # but for the rounded corners

    def test_the_frame_says_right_or_wrong(self) -> None:
        recording = drifting(frames=4, pictures=1)
        montage = Montage(recording, BOX)
        wrong, right = montage.draw(0), montage.draw(3)
        assert amount(wrong, BAD) > 500 > amount(wrong, GOOD) == 0
        assert amount(right, GOOD) > 500 > amount(right, BAD) == 0

    @pytest.mark.parametrize("count", [1, 2, 5, 24])
    @pytest.mark.parametrize("size", [(24, 32), (8, 60), (60, 8), (200, 300)])
    def test_any_number_of_pictures_of_any_shape(self, count: int, size: tuple[int, int]) -> None:
        montage = Montage(drifting(frames=2, pictures=count, size=size), BOX)
        drawn = montage.draw(1)
        assert drawn.shape == (montage.size[1], montage.size[0], 3)
        assert montage.size[0] <= BOX[0]
        assert montage.size[1] <= BOX[1]
        assert amount(drawn, GOOD) >= 50 * count

    def test_of_many_pictures_24_are_chosen_evenly(self) -> None:
        recording = drifting(frames=2, pictures=47)
        chosen = Montage(recording, (600, 500))._recording
        assert chosen.names == tuple(f"picture-{n}" for n in range(0, 47, 2))

    def test_without_probabilities_there_is_no_number(self) -> None:
        recording = drifting(frames=2, pictures=1)
        unknown = drifting(frames=2, pictures=1, probabilities=np.full((2, 1), np.nan, np.float32))
        known, silent = (Montage(r, BOX).draw(1)[-20:, 150:] for r in (recording, unknown))
        assert (silent == GROUND).all()
        assert not (known == GROUND).all()

    def test_the_names_are_below_the_tiles(self) -> None:
        drawn = [Montage(drifting(frames=2, pictures=1, labels=(name, "b")), BOX).draw(1) for name in ("cap", "torch")]
        height = len(drawn[0]) - 20
        np.testing.assert_array_equal(drawn[0][:height], drawn[1][:height])
        assert not np.array_equal(drawn[0][height:], drawn[1][height:])

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"maps": np.zeros((0, 3, 6, 8), np.float32), "steps": np.zeros(0, int)}, "maps of shape (0, 3, 6, 8)"),
            ({"maps": np.zeros((6, 3, 8), np.float32)}, "maps of shape (6, 3, 8); expected (frames, pictures, h, w)"),
        ],
    )
    def test_nothing_to_draw(self, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            Montage(drifting(**changes), BOX)

    @pytest.mark.parametrize(
        ("options", "text"), [({"cmap": "jett"}, "colormap 'jett'"), ({"alpha": 2.0}, "alpha is 2.0")]
    )
    def test_options_out_of_range(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            Montage(drifting(), BOX, **options).draw(0)


class TestEnlarged:
    def test_a_tiny_picture_keeps_its_pixels(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        np.testing.assert_array_equal(enlarged(picture, 24, 30), picture.repeat(6, axis=0).repeat(6, axis=1))
        uneven = enlarged(picture, 50, 61)
        assert uneven.shape == (50, 61, 3)
        np.testing.assert_allclose(uneven[6, 6], picture[0, 0], atol=12)

    @given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 130), st.integers(1, 130))
    @settings(max_examples=30, deadline=None)
    def test_any_size(self, high: int, wide: int, height: int, width: int) -> None:
        picture = np.full((high, wide, 3), (10, 200, 90), np.uint8)
        drawn = enlarged(picture, height, width)
        assert drawn.shape == (height, width, 3)
        assert (drawn == (10, 200, 90)).all()


def test_a_frame_around_a_picture() -> None:
    picture = np.full((30, 40, 3), 200, np.uint8)
    drawn = framed(picture, GOOD, 4)
    assert drawn.shape == (38, 48, 3)
    assert (drawn[10:-10, 4:-4] == 200).all()
    assert (drawn[10:-10, :4] == GOOD).all()
    assert (drawn[:4, 12:-12] == GOOD).all()
    assert drawn[0, 0].tolist() == list(GROUND)
