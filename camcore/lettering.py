"""Letters on pictures: a font that has them, one clean line, and as much of it as there is room for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["SYSTEM_FONTS", "clean", "drawn_name", "is_drawn", "narrowed", "typeset"]

# Pillow's built-in font draws ASCII and little more; what NFKD does not take apart is spelled out here.
_SPELLED = str.maketrans({"–": "-", "—": "-", "−": "-", "×": "x", "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE"})
SYSTEM_FONTS = ("DejaVuSans.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_TRIED = 16  # pixels; a font has the same letters at every size


def clean(text: str) -> str:
    """One line without control characters, invisible format characters and lone surrogates."""
    return "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def typeset(captions: list[list[str]], size: int) -> tuple[FreeTypeFont, list[list[str]]]:
    """The font, and the captions as it draws them: a system font where the built-in one lacks more letters."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if isinstance(font, ImageFont.ImageFont):
        raise RuntimeError("this Pillow has no FreeType, and captions need it: install the Pillow wheel from PyPI")
    captions = [[clean(line[:500]) for line in lines] for lines in captions]
    plain = [[_plain(line) for line in lines] for lines in captions]
    foreign = {c for lines in plain for line in lines for c in line if not c.isascii() and c != "…"}
    best = max([font, *_system_fonts(size)], key=lambda f: _count_drawn(f, foreign)) if foreign else font
    return (font, plain) if best is font else (best, captions)


def _system_fonts(size: int) -> Iterator[FreeTypeFont]:
    from PIL import ImageFont

    for name in SYSTEM_FONTS:
        with suppress(OSError):  # not installed
            yield ImageFont.truetype(name, size)


def is_drawn(text: str, font: FreeTypeFont) -> bool:
    """Whether a font has most of the letters of a text: the others are drawn as empty boxes."""
    letters = {c for c in text if not c.isspace()}
    return 2 * _count_drawn(font, letters) >= len(letters)


def drawn_name(name: str, number: int) -> str:
    """The name of a class, or ``class 7`` where no font here has its letters.

    Examples
    --------
    >>> drawn_name("cap", 7), drawn_name("\u200b", 7)
    ('cap', 'class 7')
    """
    font, ((line,),) = typeset([[name]], _TRIED)
    return name if line and (line.isascii() or is_drawn(line, font)) else f"class {number}"


def _count_drawn(font: FreeTypeFont, letters: set[str]) -> int:
    missing = bytes(font.getmask("\uffff"))  # what a font draws for a letter that it lacks
    return sum(bytes(font.getmask(letter)) != missing for letter in letters)


def _plain(text: str) -> str:
    """Text with the letters that the built-in font lacks replaced by their plain form, where there is one."""
    plain = (c if c == "…" else unicodedata.normalize("NFKD", c) for c in text.translate(_SPELLED))
    return "".join(c for c in "".join(plain) if not unicodedata.combining(c))


def narrowed(text: str, width: float, font: FreeTypeFont) -> str:
    """Text that fits ``width``; letters are taken out before a closing number, which stays."""
    if font.getlength(text) <= width:
        return text
    number = re.search(r" [\d.]{1,6}%?$", text)
    head, tail = (text[: number.start()], number.group()) if number else (text, "")
    while head and font.getlength(f"{head.rstrip()}…{tail}") > width:
        head = head[:-1]
    return f"{head.rstrip()}…{tail}"
