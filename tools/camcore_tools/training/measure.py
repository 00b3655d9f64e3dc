"""How well a network does on pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from camcore_torch.quiet import undisturbed
from torch import Tensor, nn
from torch.nn import functional

from camcore_tools.training.feeds import Feed, batches

__all__ = ["Measured", "measure"]


@dataclass(frozen=True)
class Measured:
    """Mean cross-entropy, and the shares of pictures whose class is among the 1, 3 and 5 best scores."""

    loss: float
    top1: float
    top3: float
    top5: float


def measure(network: nn.Module, feed: Feed, *, batch: int = 32) -> Measured:
    """Measure on all samples, in evaluation mode and in the precision of the weights; leaves the network as it is."""
    losses, ranks = 0.0, []
    for scores, labels in _answers(network, feed, batch):
        losses += float(functional.cross_entropy(scores, labels, reduction="sum"))
        ranks.append(_ranks(scores, labels))
    rank = torch.cat(ranks)
    top = [float((rank < k).double().mean()) for k in (1, 3, 5)]
    return Measured(losses / len(rank), *top)


def _answers(network: nn.Module, feed: Feed, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(network.parameters()).device
    groups = batches(np.arange(len(feed.labels)), batch)
    with undisturbed(network):
        for group, samples in zip(groups, feed.read(groups), strict=True):
            scores = network(samples.to(device))
            yield scores.double().cpu(), torch.from_numpy(feed.labels[group])


def _ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one; of equal scores the class with the smaller number is first."""
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1]) < labels[:, None]
    before = ~(scores < own) & ((scores != own) | earlier)  # NaN comes before everything
    return before.sum(dim=1)
