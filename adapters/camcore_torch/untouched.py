"""What a forward pass may change beside flags, buffers and PyTorch's random numbers: attributes, other generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["kept_attributes", "kept_generators"]

_OWN = frozenset(vars(nn.Module())) - {"training"}  # parameters, buffers, hooks: kept elsewhere, or not changed


@contextmanager
def kept_generators() -> Iterator[None]:
    """Python's and NumPy's global random numbers go on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the one that others draw from
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def kept_attributes(module: nn.Module) -> Iterator[None]:
    """Plain attributes of all parts are as before: counters, caches, tensors that are no buffers.

    What a list, a dict or a tensor in them holds is put back too, one level deep. A cache that the pass filled is
    empty again, so that the training fills it itself, with a graph where it wants one.
    """
    saved = [_Attributes(part) for part in module.modules()]
    try:
        yield
    finally:
        for kept in saved:
            kept.put_back()


class _Attributes:
    """The plain attributes of one part."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.values = {name: value for name, value in vars(part).items() if name not in _OWN}
        self.inside = {name: _copy(v) for name, v in self.values.items() if type(v) in (list, dict, set, Tensor)}

    def put_back(self) -> None:
        now = vars(self.part)
        for name in [name for name in now if name not in _OWN and name not in self.values]:
            del now[name]
        now.update(self.values)
        for name, copy in self.inside.items():
            _restore(self.values[name], copy)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value.copy()


def _restore(value: Any, copy: Any) -> None:
    """Written only where it has changed: a graph of the caller's may hold the tensor, and minds a new version."""
    if isinstance(value, Tensor):
        if not torch.equal(value, copy):
            value.data.copy_(copy)
    elif isinstance(value, list):
        value[:] = copy
    else:
        value.clear()
        value.update(copy)
