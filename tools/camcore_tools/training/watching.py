"""Which validation pictures are recorded, and how they are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from camcore.pictures import load_picture
from camcore.preprocess import Preprocess
from camcore_tools.training.pictures import Pictures

__all__ = ["first_of_each_class", "for_the_eye", "watched"]

_SIDE = 480  # as CamRecorder shows pictures
_ROWS = 3  # of the filmstrip


def watched(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Numbers of so many pictures, evenly over the classes, class after class.

    Examples
    --------
    >>> watched(np.array([1, 0, 1, 0, 1, 2]), 4).tolist()
    [1, 3, 0, 5]
    """
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    if count < len(members):
        members = [members[i] for i in np.unique(np.linspace(0, len(members) - 1, count).round().astype(int))]
    rounds = [m[i] for i in range(max(map(len, members))) for m in members if i < len(m)]
    chosen = np.array(rounds[:count], np.int64)
    return chosen[np.lexsort((chosen, labels[chosen]))]


def for_the_eye(
    pictures: Pictures, numbers: NDArray[np.int64], rule: Preprocess
) -> tuple[NDArray[np.uint8], Preprocess]:
    """What the network sees of some pictures, as sharp as their files are, and the rule with that larger size."""
    pixels = pictures.pixels(numbers)
    paths = getattr(pictures, "paths", None)
    if paths is None or rule.resize == "none":
        return pixels, rule
    files = [load_picture(paths[n]).pixels for n in numbers]
    height, width = pixels.shape[1:3]
    factor = max(1.0, min(_SIDE, *(max(file.shape) for file in files)) / max(height, width))
    larger = replace(rule, size=(round(height * factor), round(width * factor)))
    return np.stack([larger.fit(file)[0] for file in files]), larger


def first_of_each_class(classes: NDArray[np.int64]) -> list[int]:
    """Numbers of pictures for a filmstrip: of up to three classes the first.

    Examples
    --------
    >>> first_of_each_class(np.array([2, 2, 0, 1, 3]))
    [0, 2, 3]
    """
    first: list[int] = np.sort(np.unique(classes, return_index=True)[1]).tolist()
    return first[:_ROWS]
