"""Compare two models output by output: how far apart they are, at which input and index, and if that is too far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

__all__ = ["LIMITS", "Comparison", "Difference", "Gauge", "Side", "Top", "Worst", "compare", "pair", "relative"]

Floats = NDArray[np.floating[Any]]
LIMITS = {"float32": (1e-4, 1e-6), "float16": (1e-2, 1e-3), "quantised": (1.5e-1, 1e-2)}
"""(rtol, atol) by the coarser precision of the two models."""
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Side:
    """One of two models.

    Attributes
    ----------
    name : str
    run : callable
        (N, C, *S) images -> its outputs by name, in their order.
    """

    name: str
    run: Callable[[Floats], Mapping[str, Any]]


@dataclass(frozen=True)
class Worst:
    """Where two outputs are furthest apart: the input by its number, the index in the output of that input."""

    input: int
    index: tuple[int, ...]
    a: float
    b: float


@dataclass
class Difference:
    """How far apart one output of two models is.

    Attributes
    ----------
    name, other : str
        What A and B call it; ``other`` is empty where B has none.
    shape : tuple of int
        Of one input; of the whole output where its first axis is not that of the inputs.
    types : tuple of str
        The data types in A and B.
    absolute : float
        The largest ``|a - b|``; infinite for other shapes, and where one side only is NaN or infinite.
    relative : float
        The largest ``|a - b| / max |a|``; the maximum is over the output of that input.
    mean : float
        The mean of ``|a - b|``.
    limits : tuple of float
        (rtol, atol); numbers that are not floats must be equal.
    passed : bool
        For each input ``|a - b| <= max(atol, rtol * max |a|)`` everywhere.
    worst : Worst or None
        Where the output is furthest beyond its limit, or nearest to it. None where nothing differs.
    by_position : bool
        Matched so, since the names differ.
    note : str
        Why they cannot be compared; empty where they can.
    """

    name: str
    other: str
    shape: tuple[int, ...] = ()
    types: tuple[str, str] = ("", "")
    absolute: float = 0.0
    relative: float = 0.0
    mean: float = 0.0
    limits: tuple[float, float] = (0.0, 0.0)
    passed: bool = True
    worst: Worst | None = None
    by_position: bool = False
    note: str = ""

    @property
    def identical(self) -> bool:
        """No bit differs, but for NaNs and the sign of zeros."""
        return not self.note and self.absolute == 0


class Gauge:
    """Measures one output batch by batch.

    Parameters
    ----------
    name, other : str
    limits : (rtol, atol)
    by_position : bool
    """

    def __init__(self, name: str, other: str, limits: tuple[float, float], *, by_position: bool = False) -> None:
        self.found = Difference(name, other, limits=limits, by_position=by_position)
        self._excess, self._sum, self._count = -1.0, 0.0, 0

    def add(self, a: Any, b: Any, start: int, count: int) -> None:
        """The outputs of ``count`` inputs from number ``start`` on; what cannot be compared is not looked at again."""
        found = self.found
        if found.note:
            return
        if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
            self._refuse("is no tensor and is not compared", passed=type(a) is type(b))
            return
        found.types = (str(a.dtype), str(b.dtype))
        rows = a.ndim > 0 and len(a) == count
        found.shape = a.shape[1:] if rows else a.shape
        if a.shape != b.shape:
            self._refuse(f"has the shape {_shown(a.shape)} in A and {_shown(b.shape)} in B")
        elif a.dtype.kind in "fiub" and b.dtype.kind in "fiub":
            self._measure(a if rows else a[None], b if rows else b[None], start)
        elif not np.array_equal(a, b):
            self._refuse(f"is of the type {a.dtype}, and its values differ")

    def _refuse(self, why: str, *, passed: bool = False) -> None:
        self.found.note, self.found.passed = why, passed
        self.found.absolute = self.found.relative = float("inf")

    def _measure(self, a: NDArray[Any], b: NDArray[Any], start: int) -> None:
        difference = _distance(a, b)
        self._sum, self._count = self._sum + float(difference.sum()), self._count + difference.size
        self.found.mean = self._sum / max(1, self._count)
        for i, row in enumerate(difference):
            self._one(a[i], b[i], row, start + i)

    def _one(self, a: NDArray[Any], b: NDArray[Any], difference: NDArray[np.float64], number: int) -> None:
        """One input."""
        if not difference.size or (largest := float(difference.max())) == 0:
            return
        found, scale = self.found, _size(a)
        found.absolute = max(found.absolute, largest)
        found.relative = max(found.relative, largest / scale if scale > 0 else float("inf"))
        exact = a.dtype.kind != "f" and b.dtype.kind != "f"
        limit = 0.0 if exact else max(found.limits[1], found.limits[0] * scale)
        found.passed &= largest <= limit
        excess = largest / limit if limit > 0 else float("inf")
        if excess > self._excess or found.worst is None:
            at = int(difference.argmax())
            index = tuple(int(n) for n in np.unravel_index(at, a.shape)) if a.ndim else ()
            self._excess, found.worst = excess, Worst(number, index, float(a.flat[at]), float(b.flat[at]))


@dataclass
class Top:
    """How often the best class is the same; ``others`` are the first inputs where it is not: (input, A's, B's)."""

    output: str = ""
    agree: int = 0
    total: int = 0
    others: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, a: Any, b: Any, start: int) -> None:
        """Scores (N, K), or with further axes of length 1."""
        if np.shape(a) != np.shape(b):
            return
        best = [x.reshape(len(x), -1).argmax(axis=1) for x in (a, b)]
        self.total += len(a)
        self.agree += int((best[0] == best[1]).sum())
        apart = np.nonzero(best[0] != best[1])[0]
        self.others += [(start + int(i), int(best[0][i]), int(best[1][i])) for i in apart]
        del self.others[_SHOWN:]


@dataclass
class Comparison:
    """What came of comparing two models.

    Attributes
    ----------
    outputs : list of Difference
        In A's order.
    extra : list of str
        Outputs that B has on top.
    top : Top
    inputs : int
        How many images.
    """

    outputs: list[Difference] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    top: Top = field(default_factory=Top)
    inputs: int = 0

    @property
    def passed(self) -> bool:
        """All outputs are within their limits."""
        return all(d.passed for d in self.outputs)

    @property
    def worst(self) -> float:
        """The largest relative difference of all outputs."""
        return max((d.relative for d in self.outputs), default=0.0)


def compare(
    a: Side,
    b: Side,
    batches: Iterable[Floats],
    *,
    rtol: float = LIMITS["float32"][0],
    atol: float = LIMITS["float32"][1],
) -> Comparison:
    """Run both models and compare their outputs one by one, batch by batch in constant memory.

    Outputs are matched by name; what is left of A by position with what is left of B, where the shapes agree. What B
    has on top does not count against it.

    Parameters
    ----------
    a, b : Side
        A is the reference.
    batches : iterable of (N, C, *S) ndarray
    rtol, atol : float
        For each input every element of an output must obey ``|a - b| <= max(atol, rtol * max |a|)``, the maximum over
        that output of that input. Relative to the largest value, since the relative difference of an element near zero
        says nothing; and for each input, so that how they are batched does not matter and no image hides behind a
        brighter one. Numbers that are not floats must be equal.

    Raises
    ------
    InputError
        If a model cannot run a batch.
    """
    done = Comparison()
    gauges: list[tuple[Gauge, str, str]] = []
    for images in batches:
        mine, others = _run(a, images), _run(b, images)
        if not done.inputs:
            pairs, done.extra = pair(mine, others)
            gauges = [(Gauge(n, o, (rtol, atol), by_position=bool(o) and n != o), n, o) for n, o in pairs]
            done.outputs = [gauge.found for gauge, _, _ in gauges]
            done.top.output = next((n for n, o in pairs if o and _are_scores(mine[n])), "")
        for gauge, name, other in gauges:
            if other:
                gauge.add(mine[name], others[other], done.inputs, len(images))
            else:
                gauge.found.passed, gauge.found.note = False, "is not among the outputs of B"
            if name == done.top.output:
                done.top.add(mine[name], others[other], done.inputs)
        done.inputs += len(images)
    return done


def _run(side: Side, images: Floats) -> Mapping[str, Any]:
    try:
        return side.run(images)
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class, and those of others are their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{side.name} cannot run images of shape {images.shape}: {reason}") from error


def pair(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """What B calls each output of A (empty: it has none), and what else B has.

    Examples
    --------
    >>> pair({"scores": np.ones((1, 5))}, {"logits": np.ones((1, 5)), "cam": np.ones((1, 5, 7, 7))})
    ([('scores', 'logits')], ['cam'])
    """
    left_a, left_b = [n for n in a if n not in b], [n for n in b if n not in a]
    fits = {n: o for n, o in zip(left_a, left_b, strict=False) if np.shape(a[n]) == np.shape(b[o])}
    pairs = [(n, n if n in b else fits.get(n, "")) for n in a]
    return pairs, [n for n in left_b if n not in fits.values()]


def _are_scores(values: Any) -> bool:
    """(N, K), or with further axes of length 1."""
    shape: Sequence[int] = np.shape(values)
    return (
        getattr(values, "dtype", np.dtype(object)).kind == "f"
        and len(shape) > 1
        and shape[1] > 1 == max(shape[2:], default=1)
    )


def _distance(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """``|a - b|``; zero for equal infinities and for two NaNs, infinite where one side only is not finite."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(wide_a - wide_b)
    same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    return np.where(same, 0.0, difference)


def _size(a: NDArray[Any]) -> float:
    """The largest finite value."""
    wide = np.abs(a.astype(np.float64))
    return float(np.max(wide, initial=0.0, where=np.isfinite(wide)))


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.array_equal(a, b))


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def relative(found: Floats, expected: Floats) -> float:
    """Largest difference relative to the largest expected value; infinite where shapes or NaNs differ."""
    if found.shape != expected.shape:
        return float("inf")
    difference, scale = float(np.max(_distance(found, expected), initial=0.0)), _size(expected)
    return difference / scale if scale > 0 else difference
