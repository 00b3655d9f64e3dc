"""Pictures of one size with their classes: what a network is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Numbers", "PictureArray", "Pictures", "Split", "prefetched"]

Numbers = Sequence[int] | NDArray[np.integer[Any]]


class Pictures(Protocol):
    """N pictures, all of one size."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all K classes; a label is an index into them."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) ndarray."""

    @property
    def names(self) -> Sequence[str]:
        """Of the pictures, such as ``cap/0003.png``; no two are equal."""

    def __len__(self) -> int: ...

    def pixels(self, numbers: Numbers) -> NDArray[np.uint8]:
        """(n, H, W, 3) of the pictures with those numbers, in that order."""


@dataclass(frozen=True, eq=False)
class PictureArray:
    """Pictures that lie in memory: (N, H, W, 3) uint8."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, numbers: Numbers) -> NDArray[np.uint8]:
        """(n, H, W, 3) of the pictures with those numbers, in that order."""
        return self.images[np.asarray(numbers, np.int64)]


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of pictures of the same classes, and what could not be used.

    Attributes
    ----------
    train, validation : Pictures
    left_out : tuple of (path, reason)
        Files that are no pictures, damaged, ...
    notes : tuple of str
        What a person should know about the data, a sentence each.
    """

    train: Pictures
    validation: Pictures
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def prefetched(pictures: Pictures, batches: Iterable[Numbers]) -> Iterator[NDArray[np.uint8]]:
    """The pixels of each batch in turn; while one is worked on, the next is read in another thread."""
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[NDArray[np.uint8]] | None = None
        try:
            for numbers in batches:
                ahead, ready = reader.submit(pictures.pixels, numbers), ahead
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()
        finally:
            reader.shutdown(cancel_futures=True)
