"""Picture files as pixels of one size: all read once before the training, and kept while there is room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.pictures import load_picture
from camcore.preprocess import Preprocess
from camcore_tools.console import Progress

__all__ = ["PictureStore"]

_THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes without Python's lock
_BLOCK = 256

Pixels = NDArray[np.uint8]


class _OtherSize(InputError):
    """Of one picture than of the others, where the rule leaves sizes as they are."""


class PictureStore:
    """Files read by the geometry of a rule: exactly the pixels that the deployed model gets to see.

    Parameters
    ----------
    paths : sequence of Path
    rule : Preprocess
    cache_bytes : int
        The pixels of the first pictures, up to so many bytes, are kept; the others are read whenever they are needed.

    Raises
    ------
    InputError
        If the rule keeps the size of pictures, and these have several.
    """

    def __init__(self, paths: Sequence[Path], rule: Preprocess, *, cache_bytes: int) -> None:
        self.paths = paths
        self._rule = rule
        self._shape = self._find_shape()
        room = cache_bytes // max(1, int(np.prod(self._shape)))
        self._kept = np.empty((min(len(paths), room), *self._shape), np.uint8)
        self.unreadable: dict[int, str] = self._examine_all()
        """Numbers of the pictures that cannot be read, and why."""

    def pixels(self, numbers: NDArray[np.int64]) -> Pixels:
        """(n, H, W, 3) of those pictures.

        Raises
        ------
        InputError
            If a file that has to be read again is gone or has changed.
        """
        out = np.empty((len(numbers), *self._shape), np.uint8)
        kept = numbers < len(self._kept)
        out[kept] = self._kept[numbers[kept]]
        others = np.flatnonzero(~kept)
        if len(others):
            with ThreadPoolExecutor(_THREADS) as pool:
                for place, pixels in zip(others, pool.map(self._again, numbers[others].tolist()), strict=True):
                    out[place] = pixels
        return out

    def _find_shape(self) -> tuple[int, ...]:
        if self._rule.resize != "none":
            return (*(self._rule.size or (224, 224)), 3)
        for path in self.paths:
            try:
                return load_picture(path).pixels.shape
            except InputError:  # that is told when its turn comes
                continue
        return (0, 0, 3)

    def _examine_all(self) -> dict[int, str]:
        found: dict[int, str] = {}
        numbers = range(len(self.paths))
        with Progress(len(numbers), "reading pictures") as bar, ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(numbers), _BLOCK):
                block = numbers[start : start + _BLOCK]
                for number, reason in zip(block, pool.map(self._examine, block), strict=True):
                    bar.step()
                    if reason:
                        found[number] = reason
        return found

    def _examine(self, number: int) -> str | None:
        try:
            pixels = self._fitted(number)
        except _OtherSize:
            raise
        except InputError as error:
            return str(error).removeprefix(f"{self.paths[number]}: ")
        if number < len(self._kept):
            self._kept[number] = pixels
        return None

    def _again(self, number: int) -> Pixels:
        try:
            return self._fitted(number)
        except InputError as error:
            raise InputError(f"{error} (it was one when the training began)") from error

    def _fitted(self, number: int) -> Pixels:
        pixels, _ = self._rule.fit(load_picture(self.paths[number]).pixels)
        if pixels.shape != self._shape:
            height, width, _ = self._shape
            raise _OtherSize(
                f"{self.paths[number]}: {pixels.shape[1]} x {pixels.shape[0]} pixels, and the first picture has "
                f"{width} x {height}; with resize='none' all must have one size: take 'short' or 'squash'"
            )
        return pixels
