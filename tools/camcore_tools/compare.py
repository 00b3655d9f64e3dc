"""Sheets of several methods, one below the other, so that they can be compared at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camcore.files import save_picture

__all__ = ["stack_sheets"]

Pixels = NDArray[np.uint8]


def stack_sheets(groups: Sequence[Sequence[Path]], output: Path) -> None:
    """Put the sheets of one name, one a group, below each other into the folder ``output``."""
    sheets: dict[str, list[Path]] = {}
    for path in (p for group in groups for p in group if p.suffix == ".png"):
        sheets.setdefault(path.name, []).append(path)
    for name, paths in sheets.items():
        save_picture(output / name, _stacked([_read(path) for path in paths]))


def _read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _stacked(sheets: Sequence[Pixels]) -> Pixels:
    """On white, where they differ in width."""
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets]
    return np.concatenate(padded)
