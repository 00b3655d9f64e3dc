"""Overlays and sheets of an explanation: what is shown, where, and in which style."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy_network import explanation

from camcore import Explanation, InputError, boxes, figures
from camcore.multilabel.together import PALETTE, blend, legend
from camcore.pictures import Picture
from camcore.render import draw_boxes, matlab_overlay, overlay, red_overlay

NAMES = ("tench", "tabby, tabby cat", "lynx", "crane", "otter")


def pictured(pixels: np.ndarray, view: tuple[float, float, float, float], **changes: Any) -> Explanation:
    return explanation(images=1, pictures=[Picture(pixels, "p")], views=[view], **changes)


class TestSeen:
    def test_the_part_of_the_picture_that_the_network_saw(self) -> None:
        pixels = np.zeros((200, 300, 3), np.uint8)
        pixels[20:180, 60:260] = (10, 200, 30)
        shown = figures.seen(pictured(pixels, (60.2, 19.8, 259.9, 180.4)), 0)
        assert shown.shape == (384, 480, 3)  # 160 x 200, the long side 480
        assert (shown == (10, 200, 30)).all()

    @pytest.mark.parametrize("view", [(49.5625, 0.0625, 50.4375, 0.9375), (99.6, 0, 100, 1), (0, 0, 0.3, 1)])
    def test_less_than_a_pixel_is_shown_as_that_pixel(self, view: tuple[float, float, float, float]) -> None:
        row = np.arange(100, dtype=np.uint8)[None, :, None].repeat(3, 2)
        shown = figures.seen(pictured(row, view), 0)
        inside = {int(np.floor(view[0])), int(np.ceil(view[2])) - 1}
        assert len(np.unique(shown)) == 1
        assert int(shown[0, 0, 0]) in inside

    def test_without_a_picture_the_input_is_stretched(self) -> None:
        images = np.zeros((1, 3, 2, 2), np.float32)
        images[0, :, 0, 0], images[0, :, 1, 1] = -3, 5
        shown = figures.seen(replace(explanation((2, 2), images=1), images=images), 0)
        assert shown.shape == (480, 480, 3)
        assert shown[::240, ::240, 0].tolist() == [[0, 96], [96, 255]]  # 3/8 of 255, rounded to even

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_other_channels_are_shown_as_their_mean(self, channels: int) -> None:
        images = np.random.default_rng(0).random((1, channels, 6, 6)).astype(np.float32)
        grey = replace(explanation((6, 6), images=1), images=images.mean(axis=1, keepdims=True).repeat(3, 1))
        several = replace(explanation((6, 6), images=1), images=images)
        np.testing.assert_array_equal(figures.seen(several, 0), figures.seen(grey, 0))

    def test_a_constant_input_is_black(self) -> None:
        images = np.full((1, 3, 4, 4), 7, np.float32)
        assert not figures.seen(replace(explanation((4, 4), images=1), images=images), 0).any()

    def test_pixels_of_a_small_picture_stay_pixels(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        shown = figures.seen(pictured(pixels, (0, 0, 8, 8)), 0)
        np.testing.assert_array_equal(shown, pixels.repeat(60, 0).repeat(60, 1))


class TestOverlays:
    def test_the_styles_are_those_of_render(self) -> None:
        out = explanation(classes=2)
        picture = figures.seen(out, 1)
        heats = out[1].heatmaps(picture.shape[:2], threshold=0.3)[0]
        blend = lambda p, h: overlay(p, h, cmap="jet", alpha=0.5)  # noqa: E731
        for style, draw in (("matlab", matlab_overlay), ("alpha", blend), ("red", red_overlay)):
            for drawn, heat in zip(figures.overlays(out, 1, style=style, threshold=0.3), heats, strict=True):
                np.testing.assert_array_equal(drawn, draw(picture, heat))

    def test_boxes_are_drawn_on_top(self) -> None:
        out = explanation()
        picture = figures.seen(out, 0)
        expected = draw_boxes(figures.overlays(out, 0)[0], boxes(out.heatmaps(picture.shape[:2])[0, 0], 0.5))
        np.testing.assert_array_equal(figures.overlays(out, 0, boxes=0.5)[0], expected)

    def test_an_unknown_style(self) -> None:
        with pytest.raises(InputError, match="style is 'mathlab'; expected one of alpha, matlab, red"):
            figures.overlays(explanation(), 0, style="mathlab")


class TestSheets:
    def test_the_lines_are_the_best_classes(self) -> None:
        scores = np.log(np.array([[0.1, 0.5, 0.2, 0.05, 0.15]], np.float32))
        out = replace(explanation(images=1, class_names=NAMES), scores=scores)
        assert figures.top_lines(out, 0) == ["tabby 0.50", "lynx 0.20", "otter 0.15"]
        assert figures.top_lines(out, 0, top=1) == ["tabby 0.50"]

    def test_a_sheet_has_a_tile_more_than_classes(self) -> None:
        widths = [figures.sheet(explanation(classes=t), 0).shape[1] for t in (1, 2, 3)]
        assert widths[1] - widths[0] == widths[2] - widths[1] > 250


def scored(*chances: float, **changes: Any) -> Explanation:
    """Of independent classes, with maps of the first few."""
    logits = np.log(np.array([chances]) / (1 - np.array([chances]))).astype(np.float32)
    out = explanation(images=1, classes=3, scores_are="independent logit", class_names=NAMES, **changes)
    return replace(out, scores=logits, classes=np.array([[0, 1, 2]]))


class TestTogether:
    def test_the_classes_that_are_there_the_most_probable_first(self) -> None:
        out = scored(0.6, 0.2, 0.9, 0.3, 0.1)
        drawn = figures.together(out, 0)
        picture = figures.seen(out, 0, side=720)
        heats = out.heatmaps(picture.shape[:2], normalization="relu-max")[0, [2, 0]]
        expected = blend(picture, heats, PALETTE[:2])
        np.testing.assert_array_equal(drawn[: len(picture)], expected)
        below = legend(["lynx 0.90", "tench 0.60"], PALETTE[:2], picture.shape[1])
        np.testing.assert_array_equal(drawn[len(picture) :], below)

    def test_where_none_is_there_that_is_said_below_the_plain_picture(self) -> None:
        out = scored(0.4, 0.2, 0.1, 0.3, 0.1)
        drawn, picture = figures.together(out, 0), figures.seen(out, 0, side=720)
        np.testing.assert_array_equal(drawn[: len(picture)], picture)
        assert figures.present_lines(out, 0, 0.5) == ["no class reaches 0.50; the best: tench 0.40"]
        assert (drawn[len(picture) :] < 100).any()

    def test_how_many_more_there_are_is_said(self) -> None:
        out = scored(0.6, 0.7, 0.9, 0.8, 0.95)
        assert figures.present_lines(out, 0, 0.5) == ["lynx 0.90", "tabby 0.70", "tench 0.60", "and 2 more"]
        assert figures.present_lines(out, 0, 0.94) == ["no map of the 1 that are there"]
        few = figures.together(out, 0, most=1)
        assert not (few == PALETTE[1]).all(axis=2).any()

    def test_a_class_keeps_its_colour(self) -> None:
        colors = figures.ClassColors()
        figures.together(scored(0.6, 0.2, 0.9, 0.3, 0.1), 0, colors=colors)
        drawn = figures.together(scored(0.6, 0.95, 0.2, 0.3, 0.1), 0, colors=colors)
        legend_part = drawn[480:]
        shares = [(legend_part == color).all(axis=2).sum() for color in PALETTE[:3]]
        assert shares[0] == 0  # that of the lynx, which is not there
        assert shares[1] > 1000
        assert shares[2] > 1000

    def test_boxes_are_in_the_colour_of_their_class(self) -> None:
        out = scored(0.1, 0.9, 0.1, 0.1, 0.1)
        plain, boxed = (figures.together(out, 0, boxes=b, alpha=0, outline=None) for b in (None, 0.5))
        changed = boxed[(plain != boxed).any(axis=2)]
        assert set(map(tuple, changed.tolist())) == {PALETTE[0], (20, 20, 20)}

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"threshold": 2}, "threshold is 2; expected a probability"),
            ({"most": 0}, "most is 0; expected a number of classes, whole and at least 1"),
            ({"alpha": 2}, "alpha is 2"),
        ],
    )
    def test_options_out_of_range(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            figures.together(scored(0.9, 0.9, 0.1, 0.1, 0.1), 0, **options)


def test_names_that_no_font_has_are_numbers_on_sheets() -> None:
    names = ("\U00013000\U00013001", *NAMES[1:])
    known, unknown = (replace(explanation(images=1), class_names=n) for n in (None, names))
    assert figures.name_of(unknown, 0) == "class 0" == figures.name_of(known, 0)
    assert not any("\U00013000" in line for line in figures.top_lines(unknown, 0, 9))
