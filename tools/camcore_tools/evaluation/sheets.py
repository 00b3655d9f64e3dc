"""Pictures with the heat of each method: a captioned grid, a compact grid, a strip, and the methods side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import figures
from camcore.explanation import Explanation
from camcore.files import save_picture
from camcore.lettering import narrowed, typeset
from camcore.sheets import compact_grid, grid, strip

__all__ = ["save_methods", "save_sheets"]

Pixels = NDArray[np.uint8]
_RIGHT, _WRONG = (34, 160, 90), (220, 38, 52)
_TILE, _NARROW, _COMPACT = 240, 180, 160
_COLUMNS, _FONT = 12, 26  # of methods side by side: at most so many, and letters that can be read on a slide


def save_sheets(folder: Path, method: str, out: Explanation, truth: Sequence[int], **style: Any) -> list[Path]:
    """Write the sheets of one method.

    Parameters
    ----------
    folder : Path
    method : str
        Begins the names of the files.
    out : Explanation
        Of the chosen pictures, one class each.
    truth : sequence of int
        Their true classes.
    **style
        See :func:`camcore.figures.overlays`.

    Returns
    -------
    list of Path
        ``METHOD-grid.png``: the pictures, framed green where the network is right and red where it is wrong, with their
        true classes and the three best. ``METHOD-compact.png``: edge to edge. ``METHOD-strip.png``: in one row, with
        their true classes and the best.
    """
    heats = [figures.overlays(out, n, **style)[0] for n in range(len(out))]
    best = out.scores.argmax(axis=1)
    framed = [_framed(heat, right=best[n] == truth[n]) for n, heat in enumerate(heats)]
    captions = [[_truth(out, truth[n]), *figures.top_lines(out, n, 3)] for n in range(len(out))]
    sheets = {
        "grid": grid(framed, captions, columns=_columns(len(out)), tile=_TILE),
        "compact": compact_grid(framed, columns=_columns(len(out)), tile=_COMPACT),
        "strip": strip(framed, [lines[:2] for lines in captions], tile=_NARROW, font=15),
    }
    return [_saved(folder / f"{method}-{name}.png", sheet) for name, sheet in sheets.items()]


def save_methods(path: Path, outs: Mapping[str, Explanation], truth: Sequence[int], **style: Any) -> Path:
    """Write one sheet with a column a picture: as it is, and below it with the heat of each method."""
    first = next(iter(outs.values()))
    bands = _bands(len(first), 1 + len(outs))
    blocks = [_block(outs, chosen, truth, style) for chosen in np.array_split(np.arange(len(first)), bands)]
    wide = max(block.shape[1] for block in blocks)
    padded = [np.pad(b, ((0, 0), (0, wide - b.shape[1]), (0, 0)), constant_values=255) for b in blocks]
    return _saved(path, np.concatenate(padded))


def _bands(count: int, rows: int) -> int:
    """Into how many bands of so many rows pictures are split, to be largest on a slide of 16 to 9."""
    choices = range(math.ceil(count / _COLUMNS), count + 1)
    return min(choices, key=lambda bands: max(math.ceil(count / bands) / 16, bands * rows * 1.25 / 9))


def _block(
    outs: Mapping[str, Explanation], chosen: NDArray[np.integer[Any]], truth: Sequence[int], style: Mapping[str, Any]
) -> Pixels:
    """One row a method, and its name in front."""
    first = next(iter(outs.values()))
    numbers = chosen.tolist()
    rows = [([figures.seen(first, n) for n in numbers], [figures.name_of(first, truth[n]) for n in numbers])]
    for out in outs.values():
        found = [figures.name_of(out, int(out.classes[n, 0])) for n in numbers]
        rows.append(([figures.overlays(out, n, **style)[0] for n in numbers], found))
    strips = [strip(pictures, captions, tile=_NARROW, font=_FONT) for pictures, captions in rows]
    named = _written(["true class", *outs], [row.shape[0] for row in strips])
    return np.concatenate([named, np.concatenate(strips)], axis=1)


def _written(names: Sequence[str], heights: Sequence[int]) -> Pixels:
    """A white column as wide as the longest name, with a name beside the middle of each picture."""
    from PIL import Image, ImageDraw

    font, lines = typeset([list(names)], _FONT)
    texts = [narrowed(text, 1.5 * _NARROW, font) for text in lines[0]]
    wide = math.ceil(max(font.getlength(text) for text in texts)) + _FONT
    column = Image.new("RGB", (wide, sum(heights)), (255, 255, 255))
    tops = np.cumsum([0, *heights]).tolist()
    for text, top in zip(texts, tops, strict=False):
        ImageDraw.Draw(column).text((wide - 8, top + _NARROW / 2), text, (25, 25, 25), font, anchor="rm")
    return np.asarray(column)


def _truth(out: Explanation, truth: int) -> str:
    return f"true: {figures.name_of(out, truth)}"


def _columns(count: int) -> int:
    """Sheets are wide rather than high: 12 pictures in 3 rows of 4."""
    return min(count, max(1, round(math.sqrt(count * 1.6))))


def _framed(picture: Pixels, *, right: bool) -> Pixels:
    framed, width = picture.copy(), max(3, round(max(picture.shape) / 60))
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        framed[edge] = _RIGHT if right else _WRONG
    return framed


def _saved(path: Path, sheet: Pixels) -> Path:
    save_picture(path, sheet)
    return path
