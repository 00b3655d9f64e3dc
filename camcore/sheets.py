"""Sheets of pictures with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from camcore.errors import InputError
from camcore.labels import short_name
from camcore.lettering import clean, is_drawn, narrowed, typeset
from camcore.render import LUMA, RGB, Color, as_picture, at_least, checked_color

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["caption_lines", "compact_grid", "grid", "strip"]

Caption = str | Sequence[str]


def caption_lines(names: Sequence[str], probabilities: ArrayLike, top: int = 3) -> list[str]:
    """Write the most probable classes as lines of text.

    Parameters
    ----------
    names : sequence of str
        The name of each class. Of synonyms separated by commas the first is taken, and what is long is shortened.
    probabilities : (classes,) array_like
        In [0, 1].
    top : int
        How many lines, at most one for each class.

    Returns
    -------
    list of str
        From the most probable class on.

    Raises
    ------
    InputError
        If there is not one probability for each name, or ``top`` is below 1.

    Examples
    --------
    >>> caption_lines(["tench, Tinca tinca", "Egyptian cat", "tabby"], [0.02, 0.93, 0.05], top=2)
    ['Egyptian cat 0.93', 'tabby 0.05']
    """
    values = np.asarray(probabilities, np.float64)
    if values.shape != (len(names),):
        raise InputError(f"probabilities have shape {values.shape} for {len(names)} names; expected one for each name")
    best = np.argsort(-values, kind="stable")[: at_least(1, "top", top)]
    return [f"{_short_name(names[i])} {values[i]:.2f}" for i in best]


def _short_name(name: str, limit: int = 26) -> str:
    first = clean(short_name(name))
    return first if len(first) <= limit else first[: limit - 1].rstrip() + "…"


def grid(
    pictures: Sequence[ArrayLike],
    captions: Sequence[Caption] | None = None,
    *,
    columns: int | None = None,
    tile: int | None = None,
    margin: int = 12,
    background: Color = (255, 255, 255),
    font: int | None = None,
) -> RGB:
    """Lay pictures out on a sheet, each with its caption below.

    Parameters
    ----------
    pictures : sequence of (H, W[, C]) array_like
        See `as_picture`. Each is scaled to fit its tile and keeps its aspect ratio.
    captions : sequence of str or of sequences of str, optional
        One for each picture: a line, or several. A line that is too wide is shortened.
    columns : int, optional
        By default so many that the sheet is about as many tiles wide as high.
    tile : int, optional
        Longest side of a drawn picture, in pixels. By default that of the largest picture, within 192..384.
    margin : int
        Space around the tiles, in pixels.
    background : (R, G, B)
        0..255. The text is dark on a light background and light on a dark one.
    font : int, optional
        Size of the letters in pixels. By default it grows with the tile, within 12..24.

    Returns
    -------
    (height, width, 3) uint8 ndarray

    Raises
    ------
    InputError
        Without pictures, if there is not one caption for each, or for a size or colour out of range.
    """
    shown = _shown(pictures)
    if tile is None:
        tile = min(max(192, *(max(picture.shape) for picture in shown)), 384)
    fitted = [_fitted(picture, at_least(1, "tile", tile)) for picture in shown]
    size = min(max(12, round(tile / 16)), 24) if font is None else at_least(1, "font", font)
    letters, lines = typeset(_lines_of(captions, len(shown)), size=size)
    # Narrow pictures move together, but not so far that their captions have no room.
    width = max(max(picture.shape[1] for picture in fitted), round(0.75 * tile) if any(lines) else 1)
    columns = _columns(columns, len(shown))
    sheet = _Sheet(columns, width, at_least(0, "margin", margin), checked_color("background", background), letters)
    rows = [sheet.row(fitted[i : i + columns], lines[i : i + columns]) for i in range(0, len(fitted), columns)]
    return np.concatenate([sheet.blank(margin, rows[0].shape[1]), *rows])


def strip(
    pictures: Sequence[ArrayLike],
    captions: Sequence[Caption] | None = None,
    *,
    tile: int | None = None,
    font: int | None = None,
) -> RGB:
    """Lay pictures out in one row, like a film; the arguments are those of `grid`."""
    return grid(pictures, captions, columns=max(1, len(pictures)), tile=tile, margin=6, font=font)


def compact_grid(pictures: Sequence[ArrayLike], *, columns: int | None = None, tile: int = 160) -> RGB:
    """Lay pictures out edge to edge, without captions.

    The pictures keep their aspect ratio: each row is as high as it takes to fill the width.

    Parameters
    ----------
    pictures : sequence of (H, W[, C]) array_like
        See `as_picture`.
    columns : int, optional
        By default so many that the sheet is about as many tiles wide as high.
    tile : int
        Mean width of a drawn picture, in pixels.

    Returns
    -------
    (height, columns * tile, 3) uint8 ndarray
        What is left over of the last row is white.

    Raises
    ------
    InputError
        Without pictures, or for a size out of range.
    """
    shown = _shown(pictures)
    columns, tile = _columns(columns, len(shown)), at_least(1, "tile", tile)
    rows = [_filled(shown[i : i + columns], columns * tile, tile) for i in range(0, len(shown), columns)]
    return np.concatenate(rows)


def _filled(pictures: list[RGB], width: int, tile: int) -> RGB:
    """A row of pictures of one height; as wide as all its tiles, then white up to ``width``."""
    aspects = np.array([picture.shape[1] / picture.shape[0] for picture in pictures])
    used = len(pictures) * tile
    height = max(1, round(used / aspects.sum()))
    edges = np.rint(np.cumsum(aspects) * (used / aspects.sum())).astype(int)
    drawn = [_scaled(p, height, max(1, w)) for p, w in zip(pictures, np.diff(edges, prepend=0).tolist(), strict=True)]
    row = np.full((height, width, 3), 255, np.uint8)
    row[:, :used] = np.concatenate(drawn, axis=1)[:, :used]
    return row


def _shown(pictures: Sequence[ArrayLike]) -> list[RGB]:
    if len(pictures) == 0:
        raise InputError("there are no pictures; expected at least one")
    return [as_picture(picture) for picture in pictures]


def _columns(columns: int | None, count: int) -> int:
    return math.ceil(math.sqrt(count)) if columns is None else min(at_least(1, "columns", columns), count)


def _lines_of(captions: Sequence[Caption] | None, count: int) -> list[list[str]]:
    if captions is None:
        return [[]] * count
    if isinstance(captions, str) or len(captions) != count:
        came = "one string" if isinstance(captions, str) else str(len(captions))
        raise InputError(f"captions: {came} for {count} pictures; expected a sequence with one for each picture")
    return [[caption] if isinstance(caption, str) else list(caption) for caption in captions]


def _fitted(picture: RGB, tile: int) -> RGB:
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    return _scaled(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def _scaled(picture: RGB, height: int, width: int) -> RGB:
    from PIL import Image

    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class _Sheet:
    columns: int
    width: int  # of a tile
    margin: int
    background: Color
    font: FreeTypeFont

    def row(self, pictures: list[RGB], captions: list[list[str]]) -> RGB:
        """Tiles with a margin between them, at both ends and below."""
        above = max(picture.shape[0] for picture in pictures)
        most = max(len(lines) for lines in captions)
        # The space below the text makes it plain that it belongs to the picture above.
        height = above + (self._text_height(most) + round(0.6 * self.font.size) if most else 0)
        step = self.width + self.margin
        row = self.blank(height + self.margin, self.columns * step + self.margin)
        for i, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
            left = self.margin + i * step
            row[:height, left : left + self.width] = self._tile(picture, lines, above, height)
        return row

    def _tile(self, picture: RGB, lines: list[str], above: int, height: int) -> RGB:
        from PIL import Image, ImageDraw

        tile = Image.fromarray(self.blank(height, self.width))
        tile.paste(Image.fromarray(picture), ((self.width - picture.shape[1]) // 2, above - picture.shape[0]))
        draw = ImageDraw.Draw(tile)
        ink = (25, 25, 25) if np.dot(LUMA, self.background) > 127 else (235, 235, 235)
        for number, line in enumerate(lines):
            font, ((line,),) = (
                (self.font, [[line]]) if is_drawn(line, self.font) else typeset([[line]], round(self.font.size))
            )
            text = narrowed(line, self.width, font)
            draw.text((self.width / 2, above + self._text_height(number)), text, ink, font, anchor="ma")
        return np.asarray(tile)

    def _text_height(self, lines: int) -> int:
        """Of the first ``lines`` lines, with the space between the picture and the first; the same for every font."""
        return math.ceil(0.35 * self.font.size) + lines * math.ceil(1.25 * self.font.size)

    def blank(self, height: int, width: int) -> RGB:
        return np.full((height, width, 3), self.background, np.uint8)
