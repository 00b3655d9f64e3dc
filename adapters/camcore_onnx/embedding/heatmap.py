"""The picture that consumers may want: rectified, resized and scaled to [0, 1], as nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore.resize import interpolation_matrix
from camcore_onnx.gradients.tensor import Lengths, Tensor

__all__ = ["heatmap"]

_RESIZE = 11  # the opset since which Resize knows half-pixel centres


def heatmap(maps: Tensor, size: Sequence[int | Tensor], *, rectifies: bool) -> Tensor:
    """(N, T, *S) raw maps to (N, T, *size) in [0, 1], as :meth:`camcore.Explanation.heatmaps` gives them.

    Parameters
    ----------
    maps : (N, T, *S) Tensor
    size : sequence of int or Tensor
        One length an axis; tensors are int64, of one number.
    rectifies : bool

    Notes
    -----
    A constant map gives zeros. NaN is not treated.
    """
    small = maps.unary("Relu") if rectifies else maps
    fixed = [n for n in (*small.shape[2:], *size) if isinstance(n, int)]
    large = _by_matrices(small, [n for n in size if isinstance(n, int)]) if len(fixed) == 2 * len(size) else None
    return _minmax(large if large is not None else _by_operator(small, size), small)


def _by_matrices(maps: Tensor, size: Sequence[int]) -> Tensor:
    """One product an axis with a matrix known beforehand: any opset, any runtime, and fast for small maps."""
    for axis, new in enumerate(size, start=2):
        old = maps.shape[axis] or 0
        if old != new:
            maps = _along(maps, axis, interpolation_matrix(old, new, "linear").astype(np.float32))
    return maps


def _along(maps: Tensor, axis: int, matrix: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Tensor:
    pen = maps.pen
    if axis == maps.rank - 1:
        return maps.matmul(pen.constant(np.ascontiguousarray(matrix.T)))
    if axis == maps.rank - 2:
        return pen.constant(matrix).matmul(maps)
    rest = [n for n in maps.shape[axis + 1 :] if n is not None]
    old, flat = maps.shape[axis] or 0, int(np.prod(rest))
    done = pen.constant(matrix).matmul(maps.reshape(-1, old, flat, shape=(None, old, flat)))
    count = maps.shape[1] if maps.shape[1] is not None else maps.length(1)
    shape = (maps.shape[0], maps.shape[1], *maps.shape[2:axis], len(matrix), *rest)
    return done.reshape(-1, count, *shape[2:], shape=shape)


def _by_operator(maps: Tensor, size: Sequence[int | Tensor]) -> Tensor:
    pen = maps.pen
    if pen.opset < _RESIZE:
        raise MethodNotPossible(
            f"a heatmap of maps of no fixed size needs opset {_RESIZE}, the model has {pen.opset}: convert it first "
            f"(camcore export --opset {_RESIZE}), or take the raw map"
        )
    lengths = pen.concat([maps.lengths().slice(0, 0, 2), pen.lengths(list(size))], 0)
    shape: Lengths = (*maps.shape[:2], *(n if isinstance(n, int) else None for n in size))
    empty = pen.constant(np.zeros(0, np.float32))
    scales = empty if pen.opset < 13 else None
    return pen.op("Resize", maps, empty if pen.opset < 13 else None, scales, lengths, shape=shape, mode="linear")


def _minmax(large: Tensor, small: Tensor) -> Tensor:
    """Zeros where the small map is constant, whatever rounding has left of that."""
    axes = tuple(range(2, large.rank))
    low = large.reduce("ReduceMin", *axes)
    extent = large.reduce("ReduceMax", *axes) - low
    varies = (small.reduce("ReduceMax", *axes) > small.reduce("ReduceMin", *axes)).cast(ir.DataType.FLOAT)
    empty = extent.equals(0.0).cast(ir.DataType.FLOAT)
    return (large - low) / (extent + empty) * varies
