"""Pictures with the heat of each method: a captioned grid, a compact grid, a strip, and the methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import figures
from camcore.explanation import Explanation
from camcore.files import save_picture
from camcore.labels import short_name
from camcore.sheets import compact_grid, grid, strip

__all__ = ["save_methods", "save_sheets"]

Pixels = NDArray[np.uint8]
_RIGHT, _WRONG = (34, 160, 90), (220, 38, 52)
_TILE, _NARROW = 240, 180


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
        true classes and the three best. ``METHOD-compact.png``: edge to edge. ``METHOD-strip.png``: in one row.
    """
    heats = [figures.overlays(out, n, **style)[0] for n in range(len(out))]
    best = out.scores.argmax(axis=1)
    framed = [_framed(heat, right=best[n] == truth[n]) for n, heat in enumerate(heats)]
    captions = [[_truth(out, n, truth[n]), *figures.top_lines(out, n, 3)] for n in range(len(out))]
    sheets = {
        "grid": grid(framed, captions, columns=_columns(len(out)), tile=_TILE),
        "compact": compact_grid(heats, columns=_columns(len(out)), tile=160),
        "strip": strip(framed, [figures.top_lines(out, n, 1) for n in range(len(out))], tile=_NARROW),
    }
    return [_saved(folder / f"{method}-{name}.png", sheet) for name, sheet in sheets.items()]


def save_methods(path: Path, outs: Mapping[str, Explanation], truth: Sequence[int], **style: Any) -> Path:
    """Write one sheet with a row a picture: as it is, and with the heat of each method."""
    first = next(iter(outs.values()))
    tiles, captions = [], []
    for n in range(len(first)):
        tiles += [figures.seen(first, n), *(figures.overlays(out, n, **style)[0] for out in outs.values())]
        taken = short_name(out_label(first, n))
        captions += [_truth(first, n, truth[n]), *(f"{method}: {taken}" for method in outs)]
    return _saved(path, grid(tiles, captions, columns=1 + len(outs), tile=_TILE))


def out_label(out: Explanation, n: int) -> str:
    """The name of the class whose map it is."""
    return out.label(int(out.classes[n, 0]))


def _truth(out: Explanation, n: int, truth: int) -> str:
    return f"true: {short_name(out.label(truth))}"


def _columns(count: int) -> int:
    """Sheets are wide rather than high: 12 pictures in 3 rows of 4."""
    return min(count, max(1, round((count * 1.6) ** 0.5)))


def _framed(picture: Pixels, *, right: bool) -> Pixels:
    framed, width = picture.copy(), max(3, round(max(picture.shape) / 60))
    for edge in (np.s_[:width], np.s_[-width:], np.s_[:, :width], np.s_[:, -width:]):
        framed[edge] = _RIGHT if right else _WRONG
    return framed


def _saved(path: Path, sheet: Pixels) -> Path:
    save_picture(path, sheet)
    return path
