"""A small residual network, trained from scratch in well under a minute; the same seed gives the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from camcore_tools.training.small import ResidualNetwork, make_network

__all__ = ["ResidualNetwork", "make_network", "train"]

_PEAK_RATE = 6e-3 / 32  # for each picture of a batch
_WEIGHT_DECAY = 0.02
_SMOOTHING = 0.05

AfterStep = Callable[[int, float], None]


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch: int,
    seed: int,
    after_step: AfterStep | None = None,
) -> None:
    """Train in place, with random mirroring and a learning rate that rises and then falls to 0.

    Parameters
    ----------
    network : nn.Module
        Left in training mode.
    images : (N, 3, H, W) float tensor
    labels : (N,) int64 tensor
    epochs : int
        How often each picture is seen.
    batch : int
        Pictures a step.
    seed : int
        Of the order of the pictures and the mirroring.
    after_step : callable, optional
        Called with the number of the step, from 1, and its loss.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * math.ceil(len(images) / batch)
    rate = _PEAK_RATE * batch
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    orders = (torch.randperm(len(images), generator=generator) for _ in range(epochs))
    batches = (order[i : i + batch] for order in orders for i in range(0, len(order), batch))
    network.train()
    for step, chosen in enumerate(batches, start=1):
        scores = network(_mirrored(images[chosen], generator))
        loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if after_step is not None:
            after_step(step, loss.item())


def _mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture as it is or mirrored left to right, at random."""
    turned = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(turned[:, None, None, None], images.flip(3), images)
