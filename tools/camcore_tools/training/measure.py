"""How well a network does on pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from camcore_torch.quiet import undisturbed
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from camcore.preprocess import Preprocess
from camcore_tools.training.pictures import Pictures, prefetched

__all__ = ["Measured", "batches", "inputs", "measure"]


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy, and the shares of pictures whose class is among the 1, 3 and 5 best scores."""

    loss: float
    top1: float
    top3: float
    top5: float


def inputs(pixels: NDArray[np.uint8], rule: Preprocess) -> Tensor:
    """(n, H, W, 3) pixels, of the size that the network takes, to its (n, 3, H, W) input."""
    return torch.from_numpy(np.stack([rule.values(picture) for picture in pixels]))


def batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
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


def measure(network: nn.Module, pictures: Pictures, rule: Preprocess, *, batch: int = 32) -> Measured:
    """Measure on all pictures, in evaluation mode and in the precision of the weights; leaves the network as it is."""
    losses, ranks = 0.0, []
    for scores, labels in _answers(network, pictures, rule, batch):
        losses += float(functional.cross_entropy(scores, labels, reduction="sum"))
        ranks.append(_ranks(scores, labels))
    rank = torch.cat(ranks)
    top = [float((rank < k).double().mean()) for k in (1, 3, 5)]
    return Measured(losses / len(rank), *top)


def _answers(network: nn.Module, pictures: Pictures, rule: Preprocess, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(network.parameters()).device
    groups = batches(np.arange(len(pictures)), batch)
    with undisturbed(network):
        for chosen, pixels in zip(groups, prefetched(pictures, groups), strict=True):
            scores = network(inputs(pixels, rule).to(device))
            yield scores.double().cpu(), torch.from_numpy(pictures.labels[chosen])


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one; of equal scores the class with the smaller number is first."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    before = ~(scores < own) & ((scores != own) | earlier)  # NaN comes before everything
    return before.sum(dim=1)
