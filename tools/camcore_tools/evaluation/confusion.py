"""The confusion matrix as a picture that can be read, of few classes and of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from camcore.films.theme import (
    FAINT,
    GROUND,
    LOSSES,
    PANEL,
    SHARES,
    TEXT,
    Color,
    blank,
    blend,
    draw_text,
    font_of,
    text_width,
)
from camcore.labels import short_name
from camcore.lettering import narrowed

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil

__all__ = ["confusion_picture"]

_SIDE, _LEAST, _MOST = 760, 13, 140  # of the matrix, and of a cell
_NAMED, _LARGE = 120, 1560  # so many classes have their names beside them; the side where there are more
_NAME = 190  # room for names
_READABLE = 22  # cells of this size hold a number


def confusion_picture(confusion: NDArray[np.integer[Any]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a confusion matrix.

    Parameters
    ----------
    confusion : (K, K) integer ndarray
        Rows are true classes.
    classes : sequence of str
        Their names.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        A row is a true class, a column what its pictures were taken for; the brighter a cell, the larger its share of
        the row. Right answers are blue, wrong ones orange. Where there is room the numbers stand in the cells; the
        names are left out of more than 120 classes.
    """
    return np.asarray(_Matrix.of(confusion, [short_name(name) for name in classes]).draw())


@dataclass(frozen=True, eq=False)
class _Matrix:
    confusion: NDArray[np.integer[Any]]
    names: list[str]
    cell: int
    font: int
    left: int
    top: int

    @classmethod
    def of(cls, confusion: NDArray[np.integer[Any]], names: list[str]) -> _Matrix:
        cell = min(max(_SIDE // len(names), _LEAST), _MOST)
        font = min(max(round(0.42 * cell), 10), 16)
        wide = round(min(max(text_width(name, font) for name in names), _NAME))
        head = round(5.2 * font)
        return cls(
            confusion, names, cell, font, wide + 4 * font, head + (2 * font if _flat(names, cell, font) else wide)
        )

    def draw(self) -> PilImage:
        side = self.cell * len(self.confusion)
        image = blank(self.left + side + 2 * self.font, self.top + side + 2 * self.font)
        pencil = ImageDraw.Draw(image)
        self._write_title(pencil, image.width)
        shares = self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        for row, column in np.ndindex(self.confusion.shape):
            self._draw_cell(pencil, row, column, float(shares[row, column]))
        self._write_names(image, pencil)
        return image

    def _write_title(self, pencil: Pencil, width: int) -> None:
        size, right, total = max(self.font, 12), int(np.trace(self.confusion)), int(self.confusion.sum())
        title = f"{right} of {total} right ({right / max(total, 1):.1%})"
        draw_text(pencil, (1.2 * self.font, 1.5 * size), title, size=round(1.3 * size), width=width - 2 * self.font)
        text = "rows: true classes, columns: what they were taken for" + ", in the order of eval.json" * (
            not self.names
        )
        draw_text(pencil, (1.2 * self.font, 3.2 * size), text, size=size, color=FAINT, width=width - 2 * self.font)

    def _draw_cell(self, pencil: Pencil, row: int, column: int, share: float) -> None:
        x, y, gap = self.left + column * self.cell, self.top + row * self.cell, min(self.cell // 5, 2)
        color = _color(share, right=row == column)
        pencil.rectangle((x, y, x + self.cell - 1 - gap, y + self.cell - 1 - gap), color)
        count = int(self.confusion[row, column])
        if count and self.cell >= _READABLE:
            at, size = (x + (self.cell - gap) / 2, y + (self.cell - gap) / 2), self._number_size()
            draw_text(pencil, at, str(count), size=size, color=_ink(color), anchor="mm")

    def _number_size(self) -> int:
        """So that the longest number fits into a cell."""
        digits = len(str(int(self.confusion.max())))
        return max(9, min(round(0.36 * self.cell), round(1.5 * self.cell / (digits + 1)), 24))

    def _write_names(self, image: PilImage, pencil: Pencil) -> None:
        flat = bool(self.names) and _flat(self.names, self.cell, self.font)
        for n, name in enumerate(self.names):
            middle = (n + 0.5) * self.cell
            at = self.left - 0.6 * self.font, self.top + middle
            draw_text(pencil, at, name, size=self.font, color=TEXT, anchor="rm", width=_NAME)
            if flat:
                at = self.left + middle, self.top - 0.9 * self.font
                draw_text(pencil, at, name, size=self.font, anchor="mm", width=self.cell - 4)
            else:
                self._write_upright(image, name, round(self.left + middle))

    def _write_upright(self, image: PilImage, name: str, x: int) -> None:
        font, clean = font_of(name, self.font)
        text = narrowed(clean, _NAME, font)
        line = Image.new("RGB", (max(1, round(font.getlength(text))), min(round(1.4 * self.font), self.cell)), GROUND)
        ImageDraw.Draw(line).text((0, line.height / 2), text, TEXT, font, anchor="lm")
        turned = line.transpose(Image.Transpose.ROTATE_90)
        image.paste(turned, (x - turned.width // 2, self.top - round(0.5 * self.font) - turned.height))


def _flat(names: Sequence[str], cell: int, font: int) -> bool:
    """Whether the names of the columns can be written side by side."""
    return max(text_width(name, font) for name in names) <= cell - 4


def _color(share: float, *, right: bool) -> Color:
    """Small shares are lifted, so that single mistakes are seen."""
    return blend(SHARES[0] if right else LOSSES[0], PANEL, 0.25 + 0.75 * share**0.6) if share else PANEL


def _ink(ground: Color) -> Color:
    """Dark on light and light on dark."""
    return (10, 14, 20) if 0.3 * ground[0] + 0.59 * ground[1] + 0.11 * ground[2] > 110 else TEXT
