"""The scores of all validation pictures, after each epoch that was kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from camcore_torch.network import unwrap
from camcore_torch.quiet import undisturbed
from camcore_torch.record import scores_of
from numpy.typing import NDArray
from torch import nn

from camcore.accuracy import cross_entropy, ranks
from camcore.preprocess import Preprocess
from camcore_tools.training.feeds import Feed, PictureFeed, TensorFeed, batches, inputs
from camcore_tools.training.frozen import features_of, trained_part
from camcore_tools.training.pictures import Pictures

__all__ = ["TOPS", "Score", "Scorer", "score"]

TOPS = (1, 3, 5)
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Score:
    """How good the network was after an epoch: mean cross-entropy, and shares of pictures among the best k."""

    epoch: int
    loss: float
    top1: float
    top3: float
    top5: float


class Scorer:
    """The scores of pictures by networks that differ in what was trained.

    Parameters
    ----------
    network : nn.Module
        One of them. What a frozen trunk in it makes of the pictures is computed once, and kept if it has room.
    pictures, rule
        What they are shown.
    batch : int
    often : bool
        Whether several networks will be asked, so that it pays.
    """

    def __init__(
        self, network: nn.Module, pictures: Pictures, rule: Preprocess, *, batch: int = 32, often: bool = True
    ) -> None:
        self._batch = batch
        self._feed: Feed = PictureFeed(pictures, rule)
        self._behind = ""
        if often and not all(p.requires_grad for p in network.parameters()):
            self._keep_trunk(unwrap(network), pictures, rule)

    def _keep_trunk(self, network: nn.Module, pictures: Pictures, rule: Preprocess) -> None:
        images = inputs(pictures.pixels([0, len(pictures) - 1]), rule).to(_device(network))
        part = trained_part(network, images)
        if part is None:
            return
        two = features_of(network, part, TensorFeed(images, np.zeros(2, np.int64)), batch=2)
        if two[0].nbytes * len(pictures) <= _MOST_BYTES:
            self._behind = next(name for name, module in network.named_modules() if module is part)
            self._feed = TensorFeed(features_of(network, part, self._feed, batch=self._batch), pictures.labels)

    def __call__(self, network: nn.Module, after: Callable[[int], object] = lambda count: None) -> NDArray[np.float64]:
        """(N, K) in evaluation mode and in the precision of the weights; ``after`` is told of each batch."""
        network = unwrap(network)
        part, device = network.get_submodule(self._behind), _device(network)
        groups, found = batches(np.arange(len(self._feed.labels)), self._batch), []
        with undisturbed(network):
            for chosen, samples in zip(groups, self._feed.read(groups), strict=True):
                scores = scores_of(part(samples.to(device)))
                assert scores is not None  # of a network that was trained
                found.append(scores.to("cpu", torch.float64).numpy())
                after(len(chosen))
        return np.concatenate(found)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def score(epoch: int, scores: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Score:
    """The figures of an epoch."""
    rank = ranks(scores, labels)
    return Score(epoch, float(cross_entropy(scores, labels).mean()), *(float((rank < k).mean()) for k in TOPS))
