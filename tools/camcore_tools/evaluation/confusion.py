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
    blank,
    draw_text,
    font_of,
    image_of,
    text_width,
)
from camcore.labels import short_name
from camcore.lettering import drawn_name, narrowed
from camcore.render import LUMA

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
        Their names; one that no font here can draw is replaced by its number.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        A row is a true class, a column what its pictures were taken for; the brighter a cell, the larger its share of
        the row. Right answers are blue, wrong ones orange. Where there is room the numbers stand in the cells; the
        names are left out of more than 120 classes.
    """
    return np.asarray(_Matrix.of(confusion, [drawn_name(short_name(name), n) for n, name in enumerate(classes)]).draw())


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
        if len(names) > _NAMED:
            return cls(confusion, [], max(1, _LARGE // len(names)), 16, 32, 90)
        cell = min(max(_SIDE // len(names), _LEAST), _MOST)
        font = min(max(round(0.42 * cell), 10), 16)
        wide = round(min(max(text_width(name, font) for name in names), _NAME))
        above = 2 * font if _flat(names, cell, font) else wide
        return cls(confusion, names, cell, font, wide + 4 * font, round(5.2 * font) + above)

    def draw(self) -> PilImage:
        side = self.cell * len(self.confusion)
        image = blank(self.left + side + 2 * self.font, self.top + side + 2 * self.font)
        pencil = ImageDraw.Draw(image)
        self._write_title(pencil, image.width)
        colors = self._colors()
        image.paste(image_of(self._cells(colors)), (self.left, self.top))
        if self.cell >= _READABLE:
            for row, column in np.argwhere(self.confusion).tolist():
                self._write_number(pencil, row, column, colors[row, column])
        self._write_names(image, pencil)
        return image

    def _colors(self) -> NDArray[np.uint8]:
        """(K, K, 3): small shares are lifted, so that single mistakes are seen."""
        total = np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        share = (self.confusion / total)[..., None]
        strength = np.where(share > 0, 0.25 + 0.75 * share**0.6, 0)
        full = np.where(np.eye(len(total), dtype=bool)[..., None], SHARES[0], LOSSES[0])
        return np.rint(strength * full + (1 - strength) * np.array(PANEL)).astype(np.uint8)

    def _cells(self, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Squares with narrow gaps."""
        drawn = colors.repeat(self.cell, axis=0).repeat(self.cell, axis=1)
        inner = np.arange(len(drawn)) % self.cell < self.cell - min(self.cell // 5, 2)
        drawn[~(inner[:, None] & inner)] = GROUND
        return drawn

    def _write_title(self, pencil: Pencil, width: int) -> None:
        size, right, total = max(self.font, 12), int(np.trace(self.confusion)), int(self.confusion.sum())
        title = f"{right} of {total} right ({right / max(total, 1):.1%})"
        draw_text(pencil, (1.2 * self.font, 1.5 * size), title, size=round(1.3 * size), width=width - 2 * self.font)
        text = "rows: true classes, columns: what they were taken for" + ", in the order of eval.json" * (
            not self.names
        )
        draw_text(pencil, (1.2 * self.font, 3.2 * size), text, size=size, color=FAINT, width=width - 2 * self.font)

    def _write_number(self, pencil: Pencil, row: int, column: int, ground: NDArray[np.uint8]) -> None:
        x, y = (start + (n + 0.5) * self.cell - 1 for start, n in ((self.left, column), (self.top, row)))
        ink = (10, 14, 20) if ground @ LUMA > 110 else TEXT
        draw_text(pencil, (x, y), str(self.confusion[row, column]), size=self._number_size(), color=ink, anchor="mm")

    def _number_size(self) -> int:
        """So that the longest number fits into a cell."""
        digits = len(str(int(self.confusion.max())))
        return max(9, min(round(0.42 * self.cell), round(1.5 * self.cell / (digits + 1)), 24))

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
