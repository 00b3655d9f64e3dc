"""Batches of what a network reads: pictures as its input, or what a frozen trunk makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camcore.preprocess import Preprocess
from camcore_tools.training.pictures import Pictures, prefetched

__all__ = ["Feed", "PictureFeed", "TensorFeed", "batches", "inputs"]

Ids = NDArray[np.int64]


def inputs(pixels: NDArray[np.uint8], rule: Preprocess) -> Tensor:
    """(n, H, W, 3) pixels, of the size that the network takes, to its (n, 3, H, W) input."""
    return torch.from_numpy(np.stack([rule.values(picture) for picture in pixels]))


def batches(order: Ids, size: int) -> list[Ids]:
    """Groups of ``size``, the last one smaller; a single one that would be left joins the group before.

    Examples
    --------
    >>> [group.tolist() for group in batches(np.arange(5), 2)]
    [[0, 1], [2, 3, 4]]
    """
    starts = list(range(0, len(order), size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:])


class Feed(Protocol):
    """N samples with their (N,) int64 labels."""

    labels: Ids

    def read(self, groups: Sequence[Ids]) -> Iterator[Tensor]:
        """The samples with the numbers of each group in turn."""


class PictureFeed:
    """Pictures by a rule; the next batch is read while one is worked on."""

    def __init__(self, pictures: Pictures, rule: Preprocess) -> None:
        self.labels = pictures.labels
        self._pictures, self._rule = pictures, rule

    def read(self, groups: Sequence[Ids]) -> Iterator[Tensor]:
        """(n, 3, H, W) images for each group."""
        return (inputs(pixels, self._rule) for pixels in prefetched(self._pictures, groups))


class TensorFeed:
    """Samples that lie in memory."""

    def __init__(self, samples: Tensor, labels: Ids) -> None:
        self.labels, self.samples = labels, samples

    def read(self, groups: Sequence[Ids]) -> Iterator[Tensor]:
        """(n, ...) samples for each group."""
        return (self.samples[torch.from_numpy(group)] for group in groups)
