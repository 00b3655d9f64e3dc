"""A frozen trunk gives the same features for a picture each time: they are computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from camcore_torch.quiet import undisturbed
from torch import Tensor, nn

from camcore.errors import CamError
from camcore_tools.training.feeds import Feed, TensorFeed, batches
from camcore_tools.training.networks import put_training
from camcore_tools.training.objective import Objective

__all__ = ["features_of", "separable", "trained_part"]

_MOST_BYTES = 2 << 30


def separable(objective: Objective, images: Tensor, count: int) -> nn.Module | None:
    """The trained part of a network, if what it reads of so many pictures has room in memory.

    Parameters
    ----------
    objective : Objective
        Must be possible on that part alone.
    images : (2 or more, 3, H, W) Tensor
    count : int
    """
    network = objective.network
    part = trained_part(network, images)
    if part is None:
        return None
    two = features_of(network, part, TensorFeed(images[:2], np.zeros(2, np.int64)), batch=2)
    if two[0].nbytes * count > _MOST_BYTES:
        return None
    try:
        objective.behind(part, two.to(images.device))
    except CamError:  # ReCAM sees no head in it
        return None
    return part


def trained_part(network: nn.Module, images: Tensor) -> nn.Module | None:
    """The one module in which all is trained, if the scores are what it makes of features that never change.

    Parameters
    ----------
    network : nn.Module
    images : (2 or more, 3, H, W) Tensor
        On which that is tried, bit by bit: the module must be called once, with one tensor, which is the same in
        training and evaluation mode whatever the random numbers are, and its result must be that of the network.

    Returns
    -------
    nn.Module or None
    """
    part = _outermost(network)
    if part is network:
        return None
    with undisturbed(network):
        features, scores = _seen(network, part, images)
        if features is None or not isinstance(scores, Tensor) or not torch.equal(part(features), scores):
            return None
    for seed in (0, 1):
        with undisturbed(network, "caller", buffers=True), _training(network):
            torch.manual_seed(seed)  # put back by the context
            again, _ = _seen(network, part, images)
        if again is None or not torch.equal(again, features):
            return None
    return part


def _outermost(network: nn.Module) -> nn.Module:
    """The smallest module with all trained parameters that is no mere container of it."""
    part = network
    while True:
        children = [child for child in part.children() if any(p.requires_grad for p in child.parameters())]
        own = any(p.requires_grad for p in part.parameters(recurse=False))
        if own or len(children) != 1 or all(p.requires_grad for p in part.parameters()):
            return part
        (part,) = children


@contextmanager
def _training(network: nn.Module) -> Iterator[None]:
    """Its flags as they are while it is trained."""
    before = [(module, module.training) for module in network.modules()]
    put_training(network)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _seen(network: nn.Module, part: nn.Module, images: Tensor) -> tuple[Tensor | None, object]:
    """What the part reads, None if that is not one tensor, once; and what the network returns."""
    calls: list[tuple[object, ...]] = []
    handle = part.register_forward_pre_hook(lambda module, args: calls.append(args))
    try:
        scores = network(images)
    finally:
        handle.remove()
    one = len(calls) == 1 and len(calls[0]) == 1 and isinstance(calls[0][0], Tensor)
    return (calls[0][0].clone() if one else None), scores  # type: ignore[attr-defined]


def features_of(
    network: nn.Module, part: nn.Module, feed: Feed, *, batch: int, after: Callable[[int], object] | None = None
) -> Tensor:
    """(N, ...) of all samples, on the CPU; ``after`` is told how many more are done."""
    device = next(network.parameters()).device
    groups = batches(np.arange(len(feed.labels)), batch)
    parts = []
    with undisturbed(network):
        for group, images in zip(groups, feed.read(groups), strict=True):
            features, _ = _seen(network, part, images.to(device))
            assert features is not None  # it was tried
            parts.append(features.cpu())
            if after is not None:
                after(len(group))
    return torch.cat(parts)
