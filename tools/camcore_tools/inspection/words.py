"""Figures and names in words: counts, bytes, shapes, and names that are too long for their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from camcore_tools.console import safe

__all__ = ["count", "kinds", "percent", "shape", "short", "size", "times"]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float, unit: str = "") -> str:
    """Three figures and a prefix.

    Examples
    --------
    >>> count(4089184256, "MAC"), count(11689512), count(999)
    ('4.09 GMAC', '11.7 M', '999')
    """
    step, prefix = next(((s, p) for s, p in _STEPS if number >= s * 0.9995), (1.0, ""))
    text = f"{number / step:.3g}" if prefix and number / step < 999.5 else f"{number / step:.0f}"
    return f"{text} {prefix}{unit}".strip()


def size(number: float) -> str:
    """Bytes.

    Examples
    --------
    >>> size(46723488), size(100)
    ('46.7 MB', '100 B')
    """
    return count(number, "B")


def percent(share: float) -> str:
    """A share; small ones are not nothing.

    Examples
    --------
    >>> percent(1), percent(0.0652), percent(0.0001), percent(0)
    ('100 %', '6.5 %', '< 0.1 %', '0 %')
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) else f"{100 * share:.1f} %"


def times(factor: float) -> str:
    """How many times something is as much.

    Examples
    --------
    >>> times(1), times(1.0652), times(513), times(1.0003)
    ('1.00', '1.07', '513', '1.00')
    """
    return f"{factor:.2f}" if factor < 9.995 else f"{factor:.0f}"


def shape(lengths: Sequence[Any] | None) -> str:
    """Lengths in brackets, a question mark for what is not known.

    Examples
    --------
    >>> shape(["N", 3, None])
    '(N, 3, ?)'
    """
    return "(" + ", ".join("?" if n is None else safe(n) for n in lengths or ()) + ")"


def short(text: Any, room: int, gap: str = "...") -> str:
    """A name without control characters that is no longer than ``room``, some of its middle left out.

    Most of the room goes to the end, which tells names of nested modules apart.

    Examples
    --------
    >>> short("/layer4/layer4.1/relu_1/Relu_output_0", 20)
    '/lay...lu_output_0'
    """
    name = safe(text)
    if len(name) <= room:
        return name
    front = max(1, (room - len(gap)) // 4)
    behind = room - len(gap) - front
    return f"{name[:front]}{gap}{name[-behind:]}" if behind > 0 else name[:room]


def kinds(counts: Mapping[str, int], limit: int) -> str:
    """The commonest ones, and how many others.

    Examples
    --------
    >>> kinds({"Conv": 20, "Relu": 17, "Add": 8, "Gemm": 1}, 2)
    '20 Conv, 17 Relu, 9 others'
    >>> kinds({"Conv": 20, "Relu": 17, "Softmax": 1}, 2)
    '20 Conv, 17 Relu, 1 Softmax'
    """
    limit = limit if len(counts) != limit + 1 else limit + 1  # the name of the last one is as short as "other"
    named = [f"{n} {safe(name)}" for name, n in list(counts.items())[:limit]]
    others = sum(list(counts.values())[limit:])
    return ", ".join([*named, *([f"{others} others"] if others else [])])
