"""The transpose of taking numbers by their positions: put back where they came from, and added up."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["Length", "arange", "merge", "scatter_add", "surround"]

Length = int | Tensor
_ADDS = 16  # since this opset ScatterElements adds; ScatterND too, but it loses numbers on several threads
_SPARE = 4  # how many times more numbers than needed may be gathered


def arange(pen: Pen, n: Length) -> Tensor:
    """The int64 numbers ``0 ... n - 1``; ``n`` may be a tensor of one number."""
    if isinstance(n, int):
        return pen.constant(np.arange(n, dtype=np.int64))
    ones = pen.op("ConstantOfShape", n, shape=(None,), value=ir.tensor(np.ones(1, np.int64)), dtype=ir.DataType.INT64)
    return pen.op("NonZero", ones, shape=(1, None), dtype=ir.DataType.INT64).squeeze(0)


def merge(x: Tensor, axis: int, count: int) -> Tensor:
    """``count`` axes, from ``axis`` on, as one; none become an axis of length one."""
    if count == 0:
        return x.unsqueeze(axis)
    merged, lead, rest = x.shape[axis : axis + count], x.shape[:axis], x.shape[axis + count :]
    length = None if None in merged else prod(n for n in merged if n is not None)
    shape = (*lead, length, *rest)
    if count == 1:
        return x
    if shape.count(None) < 2:
        return x.reshape(*(-1 if n is None else n for n in shape), shape=shape)
    lengths = [x.length(a) if n is None else n for a, n in enumerate(x.shape)]
    return x.reshape(*lengths[:axis], -1, *lengths[axis + count :], shape=shape)


def surround(x: Tensor, axis: int, before: Length, after: Length) -> Tensor:
    """With zeros at both ends of an axis; how many may be tensors of one number."""
    if isinstance(before, int) and isinstance(after, int):
        return x.pad(*([end if a == axis else 0 for a in range(x.rank)] for end in (before, after)))
    ends = [None if isinstance(end, int) and end == 0 else _zeros(x, axis, end) for end in (before, after)]
    return x.pen.concat([part for part in (ends[0], x, ends[1]) if part is not None], axis)


def _zeros(like: Tensor, axis: int, n: Length) -> Tensor:
    """Zeros of the shape of ``like``, but ``n`` along an axis."""
    lengths = [n if a == axis else like.length(a) if m is None else m for a, m in enumerate(like.shape)]
    shape = tuple(m if isinstance(m, int) else None for m in lengths)
    return like.pen.op(
        "Expand", like.pen.tensor(0.0, like.dtype), like.pen.lengths(lengths), shape=shape, dtype=like.dtype
    )


def scatter_add(g: Tensor, index: NDArray[Any] | Tensor, axis: int, n: Length) -> Tensor:
    """``out[index[k]] += g[k]`` along an axis that then has ``n`` places: the transpose of ``take(x, index, axis)``.

    Parameters
    ----------
    g : Tensor
    index : ndarray or Tensor
        As long as that axis of ``g``. Negative numbers count from the end.
    axis : int
    n : int or Tensor
        A tensor of one number where it is known only when the model runs.
    """
    if isinstance(index, np.ndarray) and index.size:
        if isinstance(n, int):
            index = np.where(index < 0, index + n, index)
        low, high = int(index.min()), int(index.max())
        if isinstance(n, int) or low >= 0 or high < 0:
            places = n if isinstance(n, int) else high + 1 if low >= 0 else -low
            counts = np.bincount(index % places, minlength=places)
            if places * counts.max() <= _SPARE * (places + index.size):
                found = _gathered(g, index % places, axis, counts)
                rest = 0 if isinstance(n, int) else n - places
                return surround(found, axis, *((0, rest) if low >= 0 else (rest, 0)))
    where = g.pen.tensor(index, ir.DataType.INT64).cast(ir.DataType.INT64)
    return _added(g, where, axis, n) if g.pen.opset >= _ADDS else _multiplied(g, where, axis, n)


def _gathered(g: Tensor, index: NDArray[np.int64], axis: int, counts: NDArray[np.int64]) -> Tensor:
    """Each place takes what goes there: zeros around where these follow each other, else a gather, and a sum."""
    n, k, first = len(counts), len(index), int(index[0])
    if np.array_equal(index, np.arange(first, first + k)):
        return surround(g, axis, first, n - k - first)
    nth, order = np.arange(counts.max()), np.argsort(index, kind="stable")
    spots = (np.cumsum(counts) - counts)[:, None] + nth
    table = np.where(nth < counts[:, None], order[np.minimum(spots, k - 1)], k)
    if (table == k).any():
        g = surround(g, axis, 0, 1)
    return g.gather(table[:, 0], axis) if len(nth) == 1 else g.gather(table, axis).sum(axis + 1, keep=False)


def _added(g: Tensor, index: Tensor, axis: int, n: Length) -> Tensor:
    """By ``ScatterElements``."""
    zeros = _zeros(g, axis, n)
    where = index.unsqueeze(*(a for a in range(g.rank) if a != axis)).expand(g)
    return g.pen.op("ScatterElements", zeros, where, g, shape=zeros.shape, dtype=g.dtype, axis=axis, reduction="add")


def _multiplied(g: Tensor, index: Tensor, axis: int, n: Length) -> Tensor:
    """``one_hot(index)^T g``, for opsets in which nothing adds."""
    index = (index < 0).where(index + (np.array([n]) if isinstance(n, int) else n), index)
    hot = index.unsqueeze(1).equals(arange(g.pen, n).unsqueeze(0)).cast(g.dtype)
    order = [*(a for a in range(g.rank) if a != axis), axis]
    back = sorted(range(g.rank), key=lambda a: order[a])
    rows = g.transpose(*order)
    return rows.matmul(hot).transpose(*back) if g.rank > 1 else rows.unsqueeze(0).matmul(hot).squeeze(0)
