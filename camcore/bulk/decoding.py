"""What the processes that decode do: picture files to pixels of the network's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.pictures import load_picture
from camcore.preprocess import Preprocess

__all__ = ["Decoded", "decode"]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A batch of picture files.

    Attributes
    ----------
    paths : list of str
    pixels : (M, h, w, 3) uint8 ndarray
        Of those that could be read; bytes travel between processes at a quarter of the cost of floats.
    views : (M, 4) float64 ndarray
        The part of each picture that they show, x0, y0, x1, y1 in its pixels.
    places : list of int
        Which of the N paths they are.
    errors : list of str
        One a path, empty where it could be read.
    """

    paths: list[str]
    pixels: NDArray[np.uint8]
    views: NDArray[np.float64]
    places: list[int]
    errors: list[str]

    @classmethod
    def failed(cls, paths: Sequence[str], error: str) -> Decoded:
        """None of them could be read."""
        return cls(list(paths), np.zeros((0, 1, 1, 3), np.uint8), np.zeros((0, 4)), [], [error] * len(paths))

    def images(self, rule: Preprocess, channels: int) -> NDArray[np.float32]:
        """(M, C, h, w) as the model takes them."""
        return np.stack([rule.values(pixels, channels=channels) for pixels in self.pixels])


def decode(paths: Sequence[str], rule: Preprocess) -> Decoded:
    """Decode, resize and crop; a file that cannot be read is an error text."""
    errors, pixels, views, places = [""] * len(paths), [], [], []
    for n, path in enumerate(paths):
        try:
            fitted, view = rule.fit(load_picture(path).pixels)
        except MemoryError:
            raise
        except Exception as error:  # decoders of damaged files raise what they like
            errors[n] = str(error) if isinstance(error, InputError) else f"{path}: {type(error).__name__}: {error}"
        else:
            pixels.append(fitted)
            views.append(view)
            places.append(n)
    if not pixels:
        return Decoded(list(paths), np.zeros((0, 1, 1, 3), np.uint8), np.zeros((0, 4)), [], errors)
    return Decoded(list(paths), np.stack(pixels), np.array(views, np.float64), places, errors)
