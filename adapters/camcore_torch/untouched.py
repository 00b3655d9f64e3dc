"""What a forward pass may change beside flags, buffers and PyTorch's random numbers: attributes, other generators."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Generator, Tensor, nn

__all__ = ["kept_attributes", "kept_generators"]

_OWN = frozenset(vars(nn.Module()))  # parameters, buffers, flags, hooks: kept elsewhere, or not changed

_GENERATORS = frozenset({Generator, random.Random, np.random.Generator, np.random.RandomState})
_WRITABLE = frozenset({Tensor, list, dict, set, deque, defaultdict, OrderedDict}) | _GENERATORS


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
    """Plain attributes of all parts are as before: counters, caches, tensors that are no buffers, random generators.

    Tensors, lists, dicts, sets and generators are copied for the time, one level deep, so that nothing is written into
    those that the training holds, not even to be put back. A cache that the pass fills is as it was afterwards, so that
    the training fills it itself, with a graph where it wants one.
    """
    copies: dict[int, Any] = {}  # what several parts share they share also then
    saved = [(vars(part), _plain(part)) for part in module.modules()]
    for now, values in saved:
        now.update({name: _copy(value, copies) for name, value in values.items() if type(value) in _WRITABLE})
    try:
        yield
    finally:
        for now, values in saved:
            for name in [name for name in now if name not in _OWN and name not in values]:
                del now[name]
            now.update(values)


def _plain(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _OWN}


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    if id(value) not in copies:
        copies[id(value)] = _copied(value)
    return copies[id(value)]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Generator):
        return value.clone_state()
    return copy.deepcopy(value) if type(value) in _GENERATORS else value.copy()
