"""Which validation pictures are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest

__all__ = ["at_random", "by_name"]


def by_name(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The numbers of the pictures of those names, in the order asked for.

    Parameters
    ----------
    names : sequence of str
        Of all pictures, such as ``cap/0003.png``.
    wanted : sequence of str
        Names, or their ends where those are of one picture only: ``0003.png``.

    Raises
    ------
    InputError
        For a name that is of no picture, or of several.

    Examples
    --------
    >>> by_name(["cap/1.png", "cube/2.png"], ["2.png", "cap/1.png"])
    [1, 0]
    """
    return [_number(names, name) for name in wanted]


def _number(names: Sequence[str], wanted: str) -> int:
    exact = [n for n, name in enumerate(names) if name == wanted]
    found = exact or [n for n, name in enumerate(names) if name.endswith(f"/{wanted}")]
    if not found:
        raise InputError(f"no validation picture is called {wanted!r}. {suggest(wanted, names)}")
    if len(found) > 1:
        shown = ", ".join(names[n] for n in found[:3])
        raise InputError(f"{len(found)} validation pictures are called {wanted!r}: {shown}; give the folder too")
    return found[0]


def at_random(labels: NDArray[np.int64], count: int, *, seed: int) -> list[int]:
    """The numbers of so many pictures, evenly over the classes, class after class; the same seed gives the same.

    Examples
    --------
    >>> len(at_random(np.array([0, 0, 0, 1, 1, 2]), 4, seed=0))
    4
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turn = np.empty(len(labels), np.int64)  # how many pictures of its class come before each
    for n in order.tolist():
        label = int(labels[n])
        turn[n] = seen[label] = seen.get(label, -1) + 1
    first = order[np.argsort(turn[order], kind="stable")][:count]
    chosen: list[int] = first[np.lexsort((first, labels[first]))].tolist()
    return chosen
