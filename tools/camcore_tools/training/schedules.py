"""The learning rate of each step, as a plain function of its number: to go on with a training needs no state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from camcore_tools.training.settings import Settings

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["momentum", "rate", "set_rate"]

_RISE = 0.3  # the part of onecycle in which the rate rises
_LOW, _LAST = 1 / 25, 1 / 25e4  # of the peak, where onecycle starts and ends
_CALM, _BRISK = 0.95, 0.85  # momentum at the ends and at the peak of onecycle


def rate(settings: Settings, step: int, *, total: int, per_epoch: int) -> float:
    """The learning rate of one step.

    Parameters
    ----------
    settings : Settings
    step : int
        0 is the first.
    total : int
        Steps of the whole training.
    per_epoch : int
        Steps an epoch, for the warm-up.

    Notes
    -----
    ``constant`` is ``lr``; ``inverse`` is ``lr / (1 + decay * step)``; ``cosine`` falls from ``lr`` to 0 along half a
    cosine (Loshchilov and Hutter, arXiv 1608.03983, without restarts); ``onecycle`` rises to ``lr`` and then falls,
    both along half a cosine, while the momentum does the reverse (Smith and Topin, arXiv 1708.07120, in the form and
    with the constants of PyTorch's ``OneCycleLR``). The warm-up multiplies what the schedule gives.

    Examples
    --------
    >>> [rate(Settings(lr=1.0, schedule="inverse", decay=0.5), n, total=9, per_epoch=3) for n in (0, 2)]
    [1.0, 0.5]
    """
    warming = settings.warmup * per_epoch
    rising = min(1.0, (step + 1) / warming) if warming else 1.0
    return settings.lr * rising * _share(settings, step, total)


def _share(settings: Settings, step: int, total: int) -> float:
    if settings.schedule == "inverse":
        return 1 / (1 + settings.decay * step)
    if settings.schedule == "cosine":
        return _between(1.0, 0.0, step / total)
    if settings.schedule == "onecycle":
        return _cycle(step, total, _LOW, 1.0, _LAST)
    return 1.0


def momentum(settings: Settings, step: int, *, total: int) -> float | None:
    """The momentum (the first beta of Adam) of one step; None where it stays as it is."""
    return _cycle(step, total, _CALM, _BRISK, _CALM) if settings.schedule == "onecycle" else None


def _cycle(step: int, total: int, start: float, peak: float, end: float) -> float:
    top = _RISE * total - 1
    if step <= top:
        return _between(start, peak, step / top)
    return _between(peak, end, (step - top) / max(total - 1 - top, 1e-9))


def _between(start: float, end: float, share: float) -> float:
    """Along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))


def set_rate(optimizer: Optimizer, settings: Settings, step: int, *, total: int, per_epoch: int) -> float:
    """Make the optimizer ready for one step; gives its learning rate."""
    now = rate(settings, step, total=total, per_epoch=per_epoch)
    cycled = momentum(settings, step, total=total)
    for group in optimizer.param_groups:
        group["lr"] = now
        if cycled is not None and "betas" in group:
            group["betas"] = (cycled, group["betas"][1])
        elif cycled is not None:
            group["momentum"] = cycled
    return now
