"""Letters: the font that has them, and their plain form where none has."""

from __future__ import annotations

import numpy as np
import pytest

from camcore import lettering
from camcore.sheets import grid


def test_letters_the_font_lacks_take_their_plain_form() -> None:
    assert lettering._plain("naïve – Übergröße × Ålesund…") == "naive - Ubergrosse x Alesund…"


def test_foreign_letters_take_a_system_font_that_has_them() -> None:
    found = list(lettering._system_fonts(14))
    if not any(lettering._count_drawn(font, set("кошαβ")) == 5 for font in found):
        pytest.skip("no system font with Greek and Cyrillic")
    font, lines = lettering.typeset([["кошка é", "αβ"]], 14)
    assert font.path in [f.path for f in found]
    assert lines == [["кошка é", "αβ"]]
    assert lettering.typeset([["é…"]], 14)[0].path not in [f.path for f in found]


def test_without_system_fonts_the_built_in_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    with_fonts = grid([picture], ["кошка 0.9"], tile=32)
    monkeypatch.setattr(lettering, "SYSTEM_FONTS", ("there-is-no-such-font.ttf",))
    font, lines = lettering.typeset([["кошкá 0.9"]], 14)
    assert (font.size, lines) == (14, [["кошкa 0.9"]])
    assert grid([picture], ["кошка 0.9"], tile=32).shape == with_fonts.shape


def test_a_font_draws_a_text_if_it_has_most_of_its_letters() -> None:
    font, _ = lettering.typeset([["abc"]], 14)
    assert lettering.is_drawn("abc ", font)
    assert lettering.is_drawn("ab\U00013000", font)
    assert not lettering.is_drawn("a\U00013000\U00013001\U00013002", font)


def test_a_name_without_a_font_is_a_number() -> None:
    assert [lettering.drawn_name(name, 5) for name in ("cap", "\U00013000\U00013001", "\u200b")] == [
        "cap",
        "class 5",
        "class 5",
    ]


def test_each_line_of_a_sheet_takes_a_font_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, asked = np.full((64, 64, 3), 200, np.uint8), []
    monkeypatch.setattr("camcore.sheets.is_drawn", lambda text, font: text.isascii())
    monkeypatch.setattr(
        "camcore.sheets.typeset", lambda lines, size: asked.append(lines) or lettering.typeset(lines, size)
    )
    grid([picture], [["cap", "кошка"]], tile=64)
    assert asked == [[["cap", "кошка"]], [["кошка"]]]
