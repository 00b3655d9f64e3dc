"""Operators that take some of the numbers, or put numbers among others: slices, gathers, scatters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.gradients.scatter import Length, arange, merge, scatter_add, surround
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor

_FAR = 2**31 - 1
_INT64 = ir.DataType.INT64


@rule("Slice", inputs=(0,))
def slice_(at: Step, g: Tensor, i: int) -> Tensor:
    """Zeros around what was taken, and between it where it was taken in steps."""
    starts, ends, axes, steps = _bounds(at)
    before, after = [0] * g.rank, [0] * g.rank
    for k, axis in enumerate(axes):
        n, step = at.shape()[axis], steps[k]
        g = g.slice(axis, -1, -_FAR, -1) if step < 0 else g
        g = _spread(g, axis, abs(step))
        if starts is None or ends is None or n is None:
            g = surround(g.slice(axis, 0, 1 - abs(step)) if abs(step) > 1 else g, axis, *_around(at, axis, k, step))
        else:
            taken = range(n)[starts[k] : ends[k] : step] if step > 0 else range(n)[starts[k] : ends[k] : step][::-1]
            before[axis] = taken[0] if taken else 0
            after[axis] = n - before[axis] - len(taken) * abs(step)
    return g.pad(before, after)


def _bounds(at: Step) -> tuple[list[int] | None, list[int] | None, list[int], list[int]]:
    """Starts and ends, None where they follow the images; axes and steps."""
    fixed = [at.opset < 10 or at.constant(j) is not None for j in (1, 2)]
    starts = at.ints("starts", 1) if fixed[0] else None
    ends = at.ints("ends", 2) if fixed[1] else None
    count = at.shape(1)[0] if starts is None else len(starts)
    assert count is not None  # ONNX fixes it by the rank
    axes, steps = at.ints("axes", 3), at.ints("steps", 4)
    return starts, ends, [a % at.rank() for a in axes or range(count)], steps or [1] * count


def _around(at: Step, axis: int, k: int, step: int) -> tuple[Length, Length]:
    """How much was left out at both ends of an axis, where that is known only when the model runs."""
    starts, ends, _, _ = _bounds(at)
    if starts and ends and step == 1 and starts[k] >= 0 and not 0 <= ends[k] < _FAR:
        return starts[k], -min(ends[k], 0)
    length, places = at.bare().length(axis), arange(at.pen, _length(at, axis))
    if at.opset < 10:
        taken = places.slice(0, at.attribute("starts")[k], at.attribute("ends")[k])
    else:
        bounds = [at.bare(j).slice(0, k, k + 1).cast(_INT64) for j in (1, 2)]
        taken = at.pen.op("Slice", places, *bounds, np.array([0]), np.array([step]), shape=(None,), dtype=_INT64)
    first, last = taken.slice(0, 0, 1), taken.slice(0, -1, _FAR)
    return (first, length - 1 - last) if step > 0 else (last, length - 1 - first)


def _spread(g: Tensor, axis: int, step: int) -> Tensor:
    """With ``step - 1`` zeros behind each place of an axis."""
    if step == 1:
        return g
    return merge(surround(g.unsqueeze(axis + 1), axis + 1, 0, step - 1), axis, 2)


@rule("Gather", inputs=(0,))
def gather(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = x[index]`` along an axis: ``g[k]`` is added at ``index[k]``."""
    axis = at.attribute("axis", 0) % at.rank()
    return scatter_add(merge(g, axis, at.rank(1)), _flat(_index(at)), axis, _length(at, axis))


def _index(at: Step) -> NDArray[Any] | Tensor:
    """Input 1: the array where it is fixed."""
    fixed = at.constant(1)
    return at.x(1).cast(_INT64) if fixed is None else fixed.astype(np.int64)


def _length(at: Step, axis: int) -> Length:
    n = at.shape()[axis]
    return at.bare().length(axis) if n is None else n


def _flat(index: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    return index.reshape(-1) if isinstance(index, np.ndarray) else merge(index, 0, index.rank)


@rule("GatherND", inputs=(0,), since=11)
def gather_nd(at: Step, g: Tensor, i: int) -> Tensor:
    """As ``Gather`` from rows: the first axes of ``x``, which the indices run over, as one."""
    batch, shared = at.attribute("batch_dims", 0), at.rank(1) - 1
    over = at.shape(1)[-1]
    assert over is not None  # ONNX fixes it by the ranks
    lengths = [_length(at, a) for a in range(batch + over)]
    rows = scatter_add(merge(g, 0, shared), _flat(_places(at, lengths, batch)), 0, _product(lengths))
    return rows.like(at.bare())


def _places(at: Step, lengths: Sequence[Length], batch: int) -> NDArray[Any] | Tensor:
    """Which row of ``x`` each index of ``GatherND`` means."""
    fixed, shared = at.constant(1), at.rank(1) - 1
    index: Any = at.x(1) if fixed is None or not all(isinstance(n, int) for n in lengths) else fixed
    place: Any = 0
    for a, n in enumerate(lengths):
        if a < batch:
            along: Any = arange(at.pen, n) if isinstance(index, Tensor) or isinstance(n, Tensor) else np.arange(n)
            here = along.reshape(-1, *[1] * (shared - 1 - a))
        elif isinstance(index, np.ndarray):
            here = np.where(index[..., a - batch] < 0, index[..., a - batch] + n, index[..., a - batch])
        else:
            here = index.slice(-1, a - batch, a - batch + 1).squeeze(-1)
            here = (here < 0).where(here + n, here)
        place = here if a == 0 else place * n + here
    return place


def _product(lengths: Sequence[Length]) -> Length:
    if all(isinstance(n, int) for n in lengths):
        return prod(n for n in lengths if isinstance(n, int))
    return reduce(lambda total, n: n * total if isinstance(n, Tensor) else total * n, lengths)


@rule("GatherElements", inputs=(0,), since=11)
def gather_elements(at: Step, g: Tensor, i: int) -> Tensor:
    """``y[k] = x[index[k]]`` along an axis, number by number."""
    axis, x, index = at.attribute("axis", 0) % at.rank(), at.bare(), at.bare(1)
    if at.opset >= 16:
        about = {"shape": x.shape, "dtype": g.dtype, "axis": axis, "reduction": "add"}
        return at.pen.op("ScatterElements", _blank(at, 0, g), index, g, **about)
    others = [a for a in range(g.rank) if a != axis and x.shape[a] != index.shape[a]]
    if others:
        at.refuse(f"its indices are shorter along axis {others[0]}, which needs opset 16; convert the model first")
    n = _length(at, axis)
    index = index.cast(_INT64).unsqueeze(axis + 1)
    index = (index < 0).where(index + n, index)
    hot = index.equals(arange(at.pen, n).reshape(-1, *[1] * (g.rank - 1 - axis))).cast(g.dtype)
    return (g.unsqueeze(axis + 1) * hot).sum(axis, keep=False).like(x)


def _blank(at: Step, i: int, g: Tensor) -> Tensor:
    """Zeros as long as input ``i``, in the type of the gradient."""
    return at.pen.zeros(Tensor(at.pen, at.value(i), g.dtype, at.shape(i)))


@rule("ScatterElements", "ScatterND", "Scatter", inputs=(0, 2))
def scatter(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = x``, but ``u`` at some places, or added there: zero there for ``x``, and what lies there for ``u``."""
    reduction, op, index = at.attribute("reduction", "none"), at.node.op_type, at.bare(1)
    if reduction not in ("none", "add"):
        at.refuse(f"its reduction is {reduction!r}; expected 'none' or 'add'")
    given = {} if op == "ScatterND" else {"axis": at.attribute("axis", 0)}
    if i == 2:
        if op == "Scatter":
            at.refuse("the gradient of its updates needs opset 11; convert the model first")
        taken = "GatherND" if op == "ScatterND" else "GatherElements"
        return at.pen.op(taken, g, index, shape=at.shape(2), dtype=g.dtype, **given)
    if reduction == "add":
        return g
    return at.pen.op(op, g, index, _blank(at, 2, g), shape=g.shape, dtype=g.dtype, **given)


@rule("TopK", inputs=(0,))
def top_k(at: Step, g: Tensor, i: int) -> Tensor:
    """The gradient of each value goes where that value came from."""
    op = "ScatterElements" if at.opset >= 11 else "Scatter"
    axis = at.attribute("axis", -1) % g.rank
    return at.pen.op(op, _blank(at, 0, g), at.y(1), g, shape=at.shape(), dtype=g.dtype, axis=axis)


@rule("Compress", inputs=(0,))
def compress(at: Step, g: Tensor, i: int) -> Tensor:
    """As ``Gather``, at the places where the condition holds."""
    fixed, axis = at.constant(1), at.attribute("axis")
    if fixed is not None:
        index: NDArray[Any] | Tensor = np.flatnonzero(fixed)
    else:
        index = at.pen.op("NonZero", at.bare(1), shape=(1, None), dtype=_INT64).squeeze(0)
    if axis is not None:
        return scatter_add(g, index, axis % g.rank, _length(at, axis % g.rank))
    return scatter_add(g, index, 0, _product([_length(at, a) for a in range(at.rank())])).like(at.bare())
