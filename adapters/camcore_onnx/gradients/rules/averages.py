"""Pooling by sums: the gradient of a window goes to all its places."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.gradients.windows import Window, fit, windows


@rule("GlobalAveragePool", inputs=(0,))
def global_average(at: Step, g: Tensor, i: int) -> Tensor:
    """``g / count``, the same at all places."""
    x = at.bare()
    return g / x.count(*range(2, x.rank)).cast(g.dtype)


@rule("GlobalLpPool", inputs=(0,))
def global_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """As :func:`norm_pool`, with one window."""
    return _of_sum(at, g) * _of_power(at)


@rule("AveragePool", inputs=(0,))
def average_pool(at: Step, g: Tensor, i: int) -> Tensor:
    """``g / count``, summed at each place over its windows."""
    there = windows(at)
    if all(w.is_trivial for w in there):
        return g
    if _is_cut(at, there):
        g = g * (prod(w.size for w in there) / _counts(at, there, g.dtype))
    return _spread(at, g, there, mean=True)


@rule("LpPool", inputs=(0,))
def norm_pool(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = (sum |x|^p)^(1/p)``: ``sign(x) |x|^(p-1)`` times the sum of ``g y^(1-p)``; zero where ``y`` is."""
    return _spread(at, _of_sum(at, g), windows(at), mean=False) * _of_power(at)


def _of_sum(at: Step, g: Tensor) -> Tensor:
    p, y = at.attribute("p", 2), at.y()
    if p == 1:
        return g
    return (y > 0).where(g / (y if p == 2 else y ** (p - 1.0)), 0)


def _of_power(at: Step) -> Tensor:
    p, x = at.attribute("p", 2), at.x()
    if p == 1:
        return x.unary("Sign")
    return x if p == 2 else x * x.unary("Abs") ** (p - 2.0)


def _is_cut(at: Step, there: Sequence[Window]) -> bool:
    """Whether windows may have fewer places to count than their size."""
    if at.attribute("ceil_mode", 0):
        return True
    padded = any(not isinstance(n, int) or n for w in there for n in (w.before, w.behind))
    return padded and not at.attribute("count_include_pad", 0)


def _counts(at: Step, there: Sequence[Window], dtype: ir.DataType) -> NDArray[Any] | Tensor:
    """How many places of each window count."""
    padded = bool(at.attribute("count_include_pad", 0))
    if all(w.is_fixed for w in there):
        along = [_places(w, np.arange(w.count or 0)[:, None], padded=padded) for w in there]
        return reduce(np.multiply.outer, [np.sum(inside, axis=1) for inside in along])
    return reduce(mul, [_counts_along(at, w, dtype, padded=padded) for w in there])


def _counts_along(at: Step, window: Window, dtype: ir.DataType, *, padded: bool) -> Tensor:
    """The same along one axis, when the model runs."""
    ones = at.pen.op("Expand", np.ones(1, np.int64), window.windows, shape=(None,), dtype=ir.DataType.INT64)
    numbers = at.pen.op("NonZero", ones, shape=(1, None), dtype=ir.DataType.INT64).transpose(1, 0)
    inside = _places(window, numbers, padded=padded).cast(dtype).sum(1)
    return inside.reshape(-1, *[1] * (at.rank() - window.axis - 1), shape=_column(window, at.rank()))


def _column(window: Window, rank: int) -> tuple[int | None, ...]:
    return (window.count, *[1] * (rank - window.axis - 1))


def _places(window: Window, numbers: Any, *, padded: bool) -> Any:
    """Which places of windows, by their numbers, lie in the map, or in it and its padding."""
    places = numbers * window.stride + np.array([window.taps])
    start = 0 if padded else window.before
    end = window.before + window.places
    return (places >= start) & (places < (end + window.behind if padded else end))


def _spread(at: Step, g: Tensor, there: Sequence[Window], *, mean: bool) -> Tensor:
    """What each place gets from its windows: the sum of theirs, divided by their size for a mean."""
    size = prod(w.size for w in there)
    if all(w.covers for w in there):
        return g * (1 / size) if mean else g
    if all(w.slides for w in there):
        average = _slide(at, g, there)
        return average if mean else average * size
    return _scatter(at, g, there, 1 / size if mean else 1.0)


def _slide(at: Step, g: Tensor, there: Sequence[Window]) -> Tensor:
    """Windows one step apart: the mean of the windows at each place, again a pooling."""
    ends = [w.before for w in there] + [w.behind for w in there]
    pads = [w.size - 1 - n for w, n in zip([*there, *there], ends, strict=True) if isinstance(n, int)]
    return at.pen.op(
        "AveragePool",
        g,
        shape=(*g.shape[:2], *(w.length for w in there)),
        dtype=g.dtype,
        kernel_shape=[w.size for w in there],
        pads=pads,
        count_include_pad=1,
    )


def _scatter(at: Step, g: Tensor, there: Sequence[Window], weight: float) -> Tensor:
    """Any windows: a transposed convolution of each channel with a constant kernel."""
    channels = g.shape[1]
    if channels is None:
        at.refuse("the number of its channels varies from image to image")
    kernel = np.full((channels, 1, *(w.size for w in there)), weight)
    whole = at.pen.op(
        "ConvTranspose",
        g,
        at.pen.constant(kernel, g.dtype),
        shape=(*g.shape[:2], *(w.count and (w.count - 1) * w.stride + w.reach for w in there)),
        dtype=g.dtype,
        strides=[w.stride for w in there],
        dilations=[w.dilation for w in there],
        group=channels,
    )
    return fit(at, whole, {w.axis: (-w.before, -w.after(w.reach - w.stride)) for w in there})
