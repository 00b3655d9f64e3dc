"""Letters and colours that all films share."""

from __future__ import annotations

import numpy as np
import pytest
from drifting import drifting
from PIL import ImageDraw

from camcore import lettering
from camcore.films.theme import blank, blend, class_name, draw_line, draw_text, text_width


def test_the_name_of_a_class_is_its_first_synonym() -> None:
    assert class_name(drifting(labels=("tench, Tinca tinca", "b")), 0) == "tench"
    assert class_name(drifting(labels=None), 2) == "class 2"


def test_a_name_that_cannot_be_drawn_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "is_drawn", lambda text, font: text.isascii())
    recording = drifting(labels=("\U00013000\U00013001", "b", "\u200b"))  # hieroglyphs; nothing that is seen
    assert [class_name(recording, n) for n in range(3)] == ["class 0", "b", "class 2"]


def test_blend() -> None:
    assert blend((100, 0, 10), (0, 200, 10), 0.25) == (25, 150, 10)


def test_text_stays_within_its_width() -> None:
    image = blank(200, 30, (0, 0, 0))
    draw_text(ImageDraw.Draw(image), (10, 15), "a very long line\nof many words", size=14, width=80)
    columns = np.nonzero(np.asarray(image).any(axis=(0, 2)))[0]
    assert 9 <= columns.min() < columns.max() <= 91
    assert text_width("a very long line of many words", 14) > 120


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_line_of_any_number_of_points(count: int) -> None:
    image = blank(100, 40, (0, 0, 0))
    points = np.stack([np.linspace(10, 90, count), np.full(count, 20.0)], axis=1)
    draw_line(ImageDraw.Draw(image), points, (255, 255, 255), 4)
    columns = np.nonzero(np.asarray(image).any(axis=(0, 2)))[0]
    assert len(columns) == pytest.approx({0: 0, 1: 5}.get(count, 85), abs=1)
