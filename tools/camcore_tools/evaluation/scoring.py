"""The scores of all validation pictures, after each epoch that was kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from camcore_torch.quiet import undisturbed
from camcore_torch.record import scores_of
from numpy.typing import NDArray
from torch import nn

from camcore.accuracy import cross_entropy, ranks
from camcore.preprocess import Preprocess
from camcore_tools.training.feeds import batches, inputs
from camcore_tools.training.pictures import Pictures, prefetched

__all__ = ["TOPS", "Score", "all_scores", "score"]

TOPS = (1, 3, 5)


@dataclass(frozen=True)
class Score:
    """How good the network was after an epoch: mean cross-entropy, and shares of pictures among the best k."""

    epoch: int
    loss: float
    top1: float
    top3: float
    top5: float


def all_scores(
    network: nn.Module,
    pictures: Pictures,
    rule: Preprocess,
    *,
    batch: int = 32,
    after: Callable[[int], object] = lambda count: None,
) -> NDArray[np.float64]:
    """(N, K) scores in evaluation mode and in the precision of the weights; ``after`` is told of each batch."""
    device = next(network.parameters()).device
    groups, found = batches(np.arange(len(pictures)), batch), []
    with undisturbed(network):
        for chosen, pixels in zip(groups, prefetched(pictures, groups), strict=True):
            scores = scores_of(network(inputs(pixels, rule).to(device)))
            assert scores is not None  # of a network that was trained
            found.append(scores.to("cpu", torch.float64).numpy())
            after(len(chosen))
    return np.concatenate(found)


def score(epoch: int, scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Score:
    """The figures of an epoch."""
    rank = ranks(scores, labels)
    return Score(epoch, float(cross_entropy(scores, labels).mean()), *(float((rank < k).mean()) for k in TOPS))
