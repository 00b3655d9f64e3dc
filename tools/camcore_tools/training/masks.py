"""Masks that say where the object is, beside the pictures that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.pictures import load_mask, load_picture
from camcore.preprocess import Preprocess
from camcore_tools.console import note, safe
from camcore_tools.training.layout import pictures_under, portable

__all__ = ["load_masks"]

_LOOKED_AT = 12
_COLOURS = 32  # of 512: more than the classes of common data sets whose masks are coloured


def load_masks(folder: str | PathLike[str], names: Sequence[str], *, rule: Preprocess) -> NDArray[np.bool_]:
    """The masks of pictures, seen as a network sees the pictures.

    Parameters
    ----------
    folder : path
        Holds for a picture ``cap/0003.jpg`` a mask ``cap/0003.png`` or with any other suffix of a picture; of several
        the PNG is taken. A mask has the size of its picture, or its proportions.
    names : sequence of str
        Of N pictures, as ``Pictures.names`` gives them.
    rule : Preprocess
        Whose geometry is followed; the nearest pixel is taken.

    Returns
    -------
    (N, H, W) bool ndarray
        Where the mask is neither black nor transparent.

    Raises
    ------
    InputError
        If the folder or masks are missing, or a mask cannot be read.
    """
    folder = Path(fspath(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected masks in it, named as the pictures are")
    found = _masks_in(folder)
    stems = [_stem(name) for name in names]
    missing = [name for name, stem in zip(names, stems, strict=True) if stem not in found]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{folder}: {len(missing)} of {len(names)} pictures have no mask: {listed}; expected such as "
            f"{PurePosixPath(missing[0]).with_suffix('.png')}"
        )
    _tell_photographs([found[stem] for stem in stems[:_LOOKED_AT]])
    masks = [rule.fit(load_mask(found[stem]) * np.uint8(255), nearest=True)[0] > 0 for stem in stems]
    if len({mask.shape for mask in masks}) > 1:
        raise InputError(f"{folder}: masks of several sizes; with resize='none' all must have that of the pictures")
    return np.array(masks, np.bool_)


def _tell_photographs(paths: Sequence[Path]) -> None:
    """Where the folder of the pictures was given, or another one, all would be object."""
    strange = next((path for path in paths if _is_photograph(load_picture(path).pixels)), None)
    if strange is not None:
        note(
            f"note: {safe(strange)} looks like a photograph, not like a mask; expected black where the object is not, "
            "and any one colour where it is"
        )


def _is_photograph(pixels: NDArray[np.uint8]) -> bool:
    """Many colours that differ much, as no mask has, also not a JPEG of one.

    Examples
    --------
    >>> photograph = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    >>> _is_photograph(photograph), _is_photograph(np.maximum(photograph, 128) // 128 * np.uint8(255))
    (True, False)
    """
    coarse = (pixels // 32).reshape(-1, 3).astype(np.int64) @ np.array([1, 8, 64])
    return len(np.unique(coarse)) > _COLOURS


def _masks_in(folder: Path) -> dict[str, Path]:
    paths = sorted(pictures_under(folder)[0], key=lambda path: path.suffix.lower() != ".png")
    return {_stem(path.relative_to(folder).as_posix()): path for path in reversed(paths)}


def _stem(name: str) -> str:
    return str(PurePosixPath(portable(name)).with_suffix(""))
