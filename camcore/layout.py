"""How a feature tensor holds its maps: channels first, channels last, or as a row of tokens."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.walk import times

__all__ = ["Hop", "Layout", "channels_at", "inverse", "through_view", "token_grid"]

Floats = NDArray[np.floating[Any]]
V = TypeVar("V", bound=Hashable)
MOST_PREFIX = 16  # class, distillation and register tokens; the largest number in use is 9

# None; a class token; with distillation; registers without and with a class token. Where no earlier map tells the grid.
USUAL_PREFIXES = (0, 1, 2, 4, 5, 8, 9)

POOLED_PREFIX = "the pooling averages class or register tokens too, which have no place on the map."


@dataclass(frozen=True)
class Layout:
    """Where a native feature tensor keeps channels and positions.

    Attributes
    ----------
    kind : {"first", "last", "tokens"}
        (N, C, *S); (N, *S, C); or (N, T, C) with T = prefix + prod(grid).
    prefix : int
        Tokens in front that stand for no place: class, distillation and register tokens.
    grid : tuple of int
        The spatial lengths of the other tokens, which run through it row by row.

    Examples
    --------
    >>> tokens = Layout("tokens", prefix=1, grid=(2, 3))
    >>> tokens.maps(np.zeros((8, 7, 5))).shape
    (8, 5, 2, 3)
    """

    kind: Literal["first", "last", "tokens"] = "first"
    prefix: int = 0
    grid: tuple[int, ...] = ()

    def maps(self, array: Floats, *, lead: int = 1) -> Floats:
        """Native features or gradients as maps; a view where that is possible.

        Parameters
        ----------
        array : (*L, *native) ndarray
        lead : int
            How many leading axes L there are: 1 for features (N, ...), 2 for gradients (N, T, ...).

        Returns
        -------
        (*L, C, *S) ndarray

        Raises
        ------
        InputError
            If the number of tokens is another one than the layout was made for.
        """
        if self.kind == "first":
            return array
        if self.kind == "last":
            return np.moveaxis(array, -1, lead)
        self._check(array.shape[lead:])
        places = np.swapaxes(array[..., self.prefix :, :], -1, -2)
        return places.reshape(*places.shape[:-1], *self.grid)

    def native(self, maps: Floats, like: Floats) -> Floats:
        """Maps as the network holds them, the inverse of :meth:`maps`.

        Parameters
        ----------
        maps : (M, C, *S) ndarray
        like : (1, *native) ndarray
            Features of the image at hand, of which the prefix tokens are taken.

        Returns
        -------
        (M, *native) ndarray
        """
        if self.kind == "first":
            return maps
        if self.kind == "last":
            return np.moveaxis(maps, 1, -1)
        self._check(like.shape[1:])
        places = np.swapaxes(maps.reshape(*maps.shape[:2], -1), 1, 2)
        prefix = np.broadcast_to(like[:, : self.prefix], (len(maps), self.prefix, maps.shape[1]))
        return np.concatenate([prefix.astype(maps.dtype, copy=False), places], axis=1)

    def shape(self, native: Sequence[int | None]) -> tuple[int | None, ...]:
        """The (C, *S) of maps from a native shape without its batch axis; a free length stays None."""
        if self.kind == "first":
            return tuple(native)
        return (native[-1], *(native[:-1] if self.kind == "last" else self.grid))

    def _check(self, native: tuple[int, ...]) -> None:
        if len(native) != 2 or native[0] != self.prefix + math.prod(self.grid):
            raise InputError(
                f"the features are {times(native)}; expected {self.prefix} + {times(self.grid)} tokens. Another image "
                "size has another grid: make an explainer for it"
            )


def token_grid(
    tokens: int,
    known: Iterable[tuple[int, ...]] = (),
    prefix: int | None = None,
    grid: Sequence[int] | None = None,
    *,
    image: tuple[int, ...] = (),
) -> tuple[int, tuple[int, ...]]:
    """How many of a row of tokens are prefix, and the grid of the others.

    Given values win. Else it is the spatial shape of an earlier map of the network (the patch embedding) with as few
    prefix tokens as possible; else the image divided by a patch size; else a square.

    Parameters
    ----------
    tokens : int
    known : iterable of tuple of int
        Spatial shapes of earlier maps, first to last; of two that fit, the last one is taken.
    prefix : int, optional
    grid : sequence of int, optional
    image : tuple of int
        Spatial lengths of the network's input; empty where they are not known.

    Returns
    -------
    tuple of int and tuple of int

    Raises
    ------
    InputError
        If what is given does not fit, or nothing fits.

    Examples
    --------
    >>> token_grid(198, [(112, 112), (14, 14)])
    (2, (14, 14))
    """
    if grid is not None:
        return _given(tokens, prefix, tuple(grid))
    prefixes = range(min(MOST_PREFIX, tokens - 1) + 1) if prefix is None else (prefix,)
    shapes = [*reversed([tuple(k) for k in known])]
    usual = [count for count in prefixes if prefix is not None or count in USUAL_PREFIXES]
    few = usual[:2] if len(image) == 1 else usual  # a line has so many parts that any number would fit
    for candidates, counts in ((shapes, prefixes), (_divided(image), few)):
        for count in counts:
            for shape in candidates:
                if math.prod(shape) + count == tokens:
                    return count, shape
    return _square(tokens, usual, len(image) or 2)


def _given(tokens: int, prefix: int | None, grid: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    rest = tokens - math.prod(grid)
    if rest < 0 or min(grid, default=0) < 1 or prefix not in (None, rest):
        asked = f"grid={grid}" if prefix is None else f"prefix={prefix}, grid={grid}"
        raise InputError(
            f"{asked} was given for {tokens} tokens; expected prefix + {times(grid)} = {tokens}. Count class, "
            "distillation and register tokens as prefix"
        )
    return rest, grid


def _divided(image: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The grids of square patches that cut an image without rest, smallest patches first."""
    common = math.gcd(*image)
    return [tuple(n // size for n in image) for size in range(1, common + 1) if common % size == 0]


def _square(tokens: int, prefixes: Iterable[int], axes: int) -> tuple[int, tuple[int, ...]]:
    for count in prefixes:
        side = math.isqrt(max(tokens - count, 0))
        enough = side * side >= count if count < 2 else side * side > count  # more patches than extra tokens
        if axes == 2 and side > 0 and enough and side * side + count == tokens:
            return count, (side, side)
    raise InputError(
        f"{tokens} tokens make no grid that is known: expected a few class and register tokens in front, and then one "
        "token for each patch. Say how they lie: grid=(h, w), prefix=p"
    )


@dataclass(frozen=True)
class Hop(Generic[V]):
    """A neighbour that holds the same axes: axis i of the value asked about is its axis ``axes[i]``, None if lost."""

    value: V
    axes: tuple[int | None, ...]


def channels_at(
    value: V,
    before: Callable[[V], Iterable[int | Hop[V]]],
    after: Callable[[V], Iterable[int | Hop[V]]],
) -> int | None:
    """The axis of a value that holds its channels, from what made it; else from what reads it; else None.

    Parameters
    ----------
    value : hashable
    before, after : callable
        What the operation that made a value, or those that read it, tell of its axes: a number is the channel axis (1
        for a convolution, a batch normalisation or a spatial pooling, the last for a layer normalisation over it or a
        product with a matrix); a hop leads to another value that may know more.
    """
    found = _search(value, before)
    return _search(value, after) if found is None else found


def _search(value: V, look: Callable[[V], Iterable[int | Hop[V]]]) -> int | None:
    """The nearest clue, breadth first; the axes of each value met are kept as those of the first one."""
    queue: deque[tuple[V, tuple[int | None, ...] | None]] = deque([(value, None)])
    seen = {value}
    while queue:
        at, axes = queue.popleft()
        for clue in look(at):
            if isinstance(clue, int):
                if axes is None or clue in axes:
                    return clue if axes is None else axes.index(clue)
            elif clue.value not in seen:
                seen.add(clue.value)
                queue.append((clue.value, clue.axes if axes is None else _composed(axes, clue.axes)))
    return None


def _composed(first: tuple[int | None, ...], then: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return tuple(None if i is None else then[i] for i in first)


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes one.

    Examples
    --------
    >>> inverse((0, 2, 3, 1))
    (0, 3, 1, 2)
    """
    return tuple(int(i) for i in np.argsort(order))


def through_view(here: Sequence[Any], there: Sequence[Any]) -> tuple[int | None, ...]:
    """Which axes survive a reshape: those that both shapes begin or end with. A length of None is like no other.

    Examples
    --------
    >>> through_view((2, 49, 64), (2, 7, 7, 64))
    (0, None, 3)
    """
    front = _alike(here, there)
    back = min(_alike(here[::-1], there[::-1]), min(len(here), len(there)) - front)
    middle = [None] * (len(here) - front - back)
    return (*range(front), *middle, *range(len(there) - back, len(there)))


def _alike(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many lengths two shapes begin with alike."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (n, m) in enumerate(pairs) if n is None or n != m), min(len(a), len(b)))
