"""Pooling by maxima: the gradient of a window goes to the place of its maximum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from math import prod

import numpy as np
import onnx_ir as ir

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.gradients.windows import Window, fit, windows

_FAR = 2**31 - 1
_LONGEST = 256  # places of a window along an axis: there are some nodes for each


@rule("MaxPool", inputs=(0,))
def max_pool(at: Step, g: Tensor, i: int) -> Tensor:
    """The first maximum of a window takes it all, axis by axis.

    A box is pooled along one axis after the other; from behind, the first row with the maximum is found, then the first
    place in it: the first of all in the order of memory, as in PyTorch.
    """
    axes = [w for w in windows(at) if not w.is_trivial]
    longest = max((w.size for w in axes), default=0)
    if longest > _LONGEST:
        at.refuse(f"its windows have {longest} places along an axis; the limit is {_LONGEST}")
    pooled = [at.x().cast(g.dtype)]
    for window in axes[:0:-1]:
        pooled.append(_pool_along(at, pooled[-1], window))
    y = at.y().cast(g.dtype)
    for window in axes:
        x = pooled.pop()
        g, y = _to_first(at, x, y, g, window), x
    return g


def _pool_along(at: Step, x: Tensor, window: Window) -> Tensor:
    """The same pooling along one axis only."""
    axis, k, rank = window.axis, window.axis - 2, x.rank - 2
    pads = at.attribute("pads")
    return at.pen.op(
        "MaxPool",
        x,
        shape=(*x.shape[:axis], window.count, *x.shape[axis + 1 :]),
        dtype=x.dtype,
        kernel_shape=_alone(window.size, k, rank),
        strides=_alone(window.stride, k, rank),
        dilations=_alone(window.dilation, k, rank) if window.dilation != 1 else None,
        pads=pads and [n if a % rank == k else 0 for a, n in enumerate(pads)],
        auto_pad=at.attribute("auto_pad"),
        ceil_mode=at.attribute("ceil_mode"),
    )


def _alone(number: int, k: int, rank: int) -> list[int]:
    return [number if a == k else 1 for a in range(rank)]


def _to_first(at: Step, x: Tensor, y: Tensor, g: Tensor, window: Window) -> Tensor:
    """The gradient of ``x`` from that of ``y``, its maxima along one axis."""
    axis, stride, last = window.axis, window.stride, window.taps[-1] // window.stride
    ends = window.before, window.after(last * stride)
    phases = _split(fit(at, x, {axis: ends}, -np.inf), axis, stride)
    parts: list[list[Tensor]] = [[] for _ in phases]
    for tap, first in zip(window.taps, _first(phases, y, window), strict=True):
        start = tap // stride
        before, after = ([n if a == axis else 0 for a in range(g.rank)] for n in (start, last - start))
        parts[tap % stride].append((first.cast(g.dtype) * g).pad(before, after))
    joined = _join([reduce(Tensor.__add__, part) if part else None for part in parts], axis)
    return fit(at, joined, {axis: (-ends[0], -ends[1])})


def _first(phases: Sequence[Tensor], y: Tensor, window: Window) -> Iterator[Tensor]:
    """For each place of a window, where it is the first to hold the maximum."""
    axis, last = window.axis, window.taps[-1] // window.stride
    taken: Tensor | None = None
    for tap in window.taps:
        start = tap // window.stride
        place = _between(phases[tap % window.stride], axis, start, start - last)
        here = place.equals(y)
        before, taken = taken, here if taken is None else taken | here
        yield here if before is None else y.pen.op("Xor", taken, before, shape=y.shape, dtype=taken.dtype)


def _between(x: Tensor, axis: int, start: int, end: int) -> Tensor:
    """``x[start:end]`` along an axis, where an end of zero is the end."""
    return x.slice(axis, start, end or _FAR) if start or end else x


def _split(x: Tensor, axis: int, stride: int) -> list[Tensor]:
    """Every ``stride``-th place along an axis: those from the first on, from the second on, and so forth."""
    if stride == 1:
        return [x]
    whole = x.shape[axis]
    lengths = [*_lengths(x, range(axis)), -1, stride, *_lengths(x, range(axis + 1, x.rank))]
    length = None if whole is None else whole // stride
    split = x.reshape(*lengths, shape=(*x.shape[:axis], length, stride, *x.shape[axis + 1 :]))
    order = list(range(split.rank))
    turned = split.transpose(axis + 1, *order[: axis + 1], *order[axis + 2 :])
    return [turned.gather(np.array(n), 0) for n in range(stride)]


def _join(phases: Sequence[Tensor | None], axis: int) -> Tensor:
    """What :func:`_split` took apart; None for zeros."""
    given = next(phase for phase in phases if phase is not None)
    if len(phases) == 1:
        return given
    pen, length = given.pen, given.shape[axis]
    stack = pen.concat([(pen.zeros(given) if p is None else p).unsqueeze(0) for p in phases], 0)
    turned = stack.transpose(*range(1, axis + 2), 0, *range(axis + 2, stack.rank))
    lengths = [*_lengths(given, range(axis)), -1, *_lengths(given, range(axis + 1, given.rank))]
    whole = None if length is None else length * len(phases)
    return turned.reshape(*lengths, shape=(*given.shape[:axis], whole, *given.shape[axis + 1 :]))


def _lengths(x: Tensor, axes: Iterable[int]) -> list[int | Tensor]:
    found = ((axis, x.shape[axis]) for axis in axes)
    return [x.length(axis) if n is None else n for axis, n in found]


@rule("GlobalMaxPool", inputs=(0,))
def global_max_pool(at: Step, g: Tensor, i: int) -> Tensor:
    """The first maximum of a map takes it all."""
    x, spatial = at.bare(), range(2, at.rank())
    fixed = [n for n in x.shape[2:] if n is not None]
    size = prod(fixed) if len(fixed) == len(spatial) else None
    places = at.x().reshape(*_lengths(x, range(2)), -1, shape=(*x.shape[:2], size))
    first = places.pen.op("ArgMax", places, shape=x.shape[:2], dtype=ir.DataType.INT64, axis=2, keepdims=0)
    depth = places.length(2).squeeze(0)
    one_hot = at.pen.op("OneHot", first, depth, np.array([0, 1], np.float32), shape=places.shape, axis=2)
    return one_hot.cast(g.dtype).like(x) * g


@rule("MaxUnpool", inputs=(0,))
def unpool(at: Step, g: Tensor, i: int) -> Tensor:
    """Each number went to one place: the gradient is read there."""
    return g.reshape(-1).gather(at.bare(1), 0)
