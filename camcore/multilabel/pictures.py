"""Label masks of whole pictures, as indexed PNG files that tools for segmentation read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore.files import write_atomically
from camcore.multilabel import strongest
from camcore.multilabel.together import ClassColors
from camcore.regions import pixels_of

if TYPE_CHECKING:
    from camcore.explanation import Explanation

__all__ = ["IGNORED", "LabelPicture", "label_picture"]

IGNORED = 255  # of VOC: pixels that count neither as a class nor as background


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """To each pixel of a picture a number, and what the numbers mean.

    Attributes
    ----------
    pixels : (H, W) uint8 ndarray
        0 is background, ``IGNORED`` what the network did not see.
    classes : dict of int to int
        The class of each other number.
    colors : dict of int to (R, G, B)
        Of these numbers.
    """

    pixels: NDArray[np.uint8]
    classes: dict[int, int]
    colors: dict[int, tuple[int, int, int]]

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it as a PNG whose values are the numbers, and whose palette are the colours."""
        from PIL import Image

        table = np.zeros((256, 3), np.uint8)
        table[IGNORED] = 224
        for number, color in self.colors.items():
            table[number] = color
        picture, encoded = Image.fromarray(self.pixels, "L"), BytesIO()
        picture.putpalette(table.tobytes())
        picture.save(encoded, "PNG", optimize=True)
        return write_atomically(path, lambda file: file.write(encoded.getvalue()))


def label_picture(
    out: Explanation,
    n: int,
    *,
    threshold: float = 0.2,
    normalization: str = "relu-max",
    colors: ClassColors | None = None,
) -> LabelPicture:
    """The label mask of a picture, pixel by pixel, of all classes that have a map.

    Parameters
    ----------
    out : Explanation
        With the maps of the classes that are there only; see :meth:`camcore.Explainer.present`.
    n : int
    threshold : float
        The background score; see :func:`camcore.label_mask`.
    normalization : str
        See :func:`camcore.normalize`.
    colors : ClassColors, optional
        As in :func:`camcore.figures.together`.

    Returns
    -------
    LabelPicture
        Of the size of the picture where there is one, else of the input. A class has its index + 1 as its number; in
        models of more than 254 classes, which have no room for that, those explained are counted from 1.
    """
    classes = out.classes[n].tolist()
    number = {c: c + 1 if out.scores.shape[1] < IGNORED else i + 1 for i, c in enumerate(classes)}
    canvas, seen = _canvas(out, n)
    found = strongest(_heats(out, n, canvas[seen].shape, normalization), threshold, canvas[seen].shape)
    canvas[seen] = np.array([0, *number.values()], np.uint8)[found]
    paints = (colors or ClassColors()).of(classes)
    return LabelPicture(
        canvas,
        {number[c]: c for c in classes},
        {number[c]: paint for c, paint in zip(classes, paints, strict=True)},
    )


def _canvas(out: Explanation, n: int) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """Pixels of which none is known yet, and the part that the network saw."""
    if out.pictures is None or out.views is None:
        return np.full(out.input_size, IGNORED, np.uint8), (slice(None), slice(None))
    return np.full(out.pictures[n].pixels.shape[:2], IGNORED, np.uint8), pixels_of(out.views[n])


def _heats(out: Explanation, n: int, size: tuple[int, ...], normalization: str) -> Iterator[NDArray[Any]]:
    """One at a time, since pictures may be large."""
    one = out[n]
    for t in range(one.maps.shape[1]):
        part = replace(one, maps=one.maps[:, t : t + 1], classes=one.classes[:, t : t + 1])
        yield part.heatmaps(size, normalization=normalization)[0, 0]
