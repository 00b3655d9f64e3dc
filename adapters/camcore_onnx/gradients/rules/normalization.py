"""Normalisation: by stored statistics, by those of the tensor itself, by neighbours, and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod

import numpy as np

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor


@rule("BatchNormalization", inputs=(0,), elementwise=True)
def batch_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``g scale / sqrt(var + eps)``, in inference."""
    if at.attribute("training_mode", 0) or any(v.name for v in at.node.outputs[1:]):
        at.refuse("it is in training mode, where images share statistics; export the model for inference")
    scale, variance, epsilon = at.constant(1), at.constant(4), at.attribute("epsilon", 1e-5)
    if scale is not None and variance is not None:
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        return g * factor.reshape(-1, *[1] * (at.rank() - 2))
    return g * _per_channel(at, at.x(1) / (at.x(4) + epsilon).unary("Sqrt"))


@rule("LayerNormalization", inputs=(0,))
def layer_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = scale n + bias`` of ``n = (x - mean) r``, and those of its outputs that are used."""
    x, rank = at.x(), at.rank()
    axes = range(at.attribute("axis", -1) % rank, rank)
    n, r = _standard(at, x, axes)
    of_y, of_mean, of_r = [*at.gradients, None, None][:3]
    parts = [_through_standard(of_y * at.x(1), n, r, axes)] if of_y is not None else []
    parts += [of_mean / x.count(*axes)] if of_mean is not None else []
    parts += [-(of_r * r * r / x.count(*axes)) * n] if of_r is not None else []
    return reduce(Tensor.__add__, parts).expand(x)


def _standard(at: Step, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``(x - mean) r`` and ``r = 1 / sqrt(var + eps)`` over some axes."""
    centred = x - x.mean(*axes)
    r = 1 / ((centred * centred).mean(*axes) + at.attribute("epsilon", 1e-5)).unary("Sqrt")
    return centred * r, r


def _through_standard(g: Tensor, n: Tensor, r: Tensor, axes: Sequence[int]) -> Tensor:
    """``r (g - mean(g) - n mean(g n))``."""
    return (g - g.mean(*axes) - n * (g * n).mean(*axes)) * r


@rule("InstanceNormalization", inputs=(0,))
def instance_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """Each map by itself, then ``scale n + bias``."""
    axes = range(2, at.rank())
    return _through_standard(g * _per_channel(at, at.x(1)), *_standard(at, at.x(), axes), axes)


@rule("GroupNormalization", inputs=(0,))
def group_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """Groups of channels by themselves; scales are one a group before opset 21, one a channel since."""
    x, groups = at.x(), at.attribute("num_groups")
    by_group = at.opset < 21
    h = _grouped(g if by_group else g * _per_channel(at, at.x(1)), groups)
    h = h * at.x(1).unsqueeze(1) if by_group else h
    return _through_standard(h, *_standard(at, _grouped(x, groups), [2]), [2]).like(x)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """``N x groups x rest``."""
    fixed = [n for n in x.shape[1:] if n is not None]
    rest = prod(fixed) // groups if len(fixed) == x.rank - 1 else None
    return x.reshape(x.length(0) if x.shape[0] is None else x.shape[0], groups, -1, shape=(x.shape[0], groups, rest))


def _per_channel(at: Step, numbers: Tensor) -> Tensor:
    """One number a channel, along axis 1."""
    return numbers.unsqueeze(*range(1, at.rank() - 1))


@rule("RMSNormalization", inputs=(0,))
def rms_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``r (h - n mean(h n))`` of ``h = g scale``, ``n = x r`` and ``r = 1 / sqrt(mean(x^2) + eps)``."""
    x, rank = at.x(), at.rank()
    axes = range(at.attribute("axis", -1) % rank, rank)
    r, h = 1 / ((x * x).mean(*axes) + at.attribute("epsilon", 1e-5)).unary("Sqrt"), g * at.x(1)
    n = x * r
    return (h - n * (h * n).mean(*axes)) * r


@rule("MeanVarianceNormalization", inputs=(0,))
def mean_variance_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``(g - mean(g)) / (s + 1e-9) - y mean(g y) / s`` with the standard deviation ``s``."""
    x, y, axes = at.x(), at.y(), [a % at.rank() for a in at.attribute("axes", [0, 2, 3])]
    centred = x - x.mean(*axes)
    deviation = (centred * centred).mean(*axes).unary("Sqrt")
    return (g - g.mean(*axes)) * (1 / (deviation + 1e-9)) - y * ((g * y).mean(*axes) / deviation)


@rule("LpNormalization", inputs=(0,))
def lp_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``(g - d sum(g y)) / norm`` with the slope ``d`` of the norm, ``y`` or ``sign(x)``; zero where the norm is."""
    x, y, axis, p = at.x(), at.y(), at.attribute("axis", -1), at.attribute("p", 2)
    norm = x.reduce(f"ReduceL{p}", axis)
    d = y if p == 2 else x.unary("Sign")
    return (g - d * (g * y).sum(axis)) * (norm > 0).where(1 / norm, 0)


@rule("LRN", inputs=(0,))
def local_response_norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = x d^-beta``, ``d = bias + alpha mean(x^2)`` over neighbours: ``g d^-beta - 2 alpha beta x mean(g y / d)``.

    The second mean is over the channels that have this one as a neighbour. The power is written by logarithms, which
    ONNX Runtime computes faster.
    """
    alpha, beta, bias = (at.attribute(*n) for n in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    x, size = at.x(), at.attribute("size")
    before, after = (size - 1) // 2, size // 2
    d = _over_channels(x * x, size, before, after) * alpha + bias
    back = _over_channels(g * at.y() / d, size, after, before)
    return g * (d.unary("Log") * -beta).unary("Exp") - x * back * (2 * alpha * beta)


def _over_channels(x: Tensor, size: int, before: int, after: int) -> Tensor:
    """The mean of a channel and its neighbours; those that do not exist count as zeros."""
    batch, channels = (x.length(a) if x.shape[a] is None else x.shape[a] for a in range(2))
    rows = x.reshape(batch, 1, channels, -1, shape=(x.shape[0], 1, x.shape[1], None))
    mean = x.pen.op(
        "AveragePool",
        rows,
        shape=rows.shape,
        dtype=x.dtype,
        kernel_shape=[size, 1],
        pads=[before, 0, after, 0],
        count_include_pad=1,
    )
    return mean.like(x)


@rule("Softmax")
def softmax(at: Step, g: Tensor, i: int) -> Tensor:
    """``y (g - sum(g y))``."""
    y = at.y()
    return y * (g - (g * y).sum(*_softmax_axes(at)))


@rule("LogSoftmax")
def log_softmax(at: Step, g: Tensor, i: int) -> Tensor:
    """``g - exp(y) sum(g)``."""
    return g - at.y().unary("Exp") * g.sum(*_softmax_axes(at))


def _softmax_axes(at: Step) -> Sequence[int]:
    """Before opset 13 all axes from one on are taken as one."""
    rank = at.rank()
    axis = at.attribute("axis", -1 if at.opset >= 13 else 1) % rank
    return [axis] if at.opset >= 13 else range(axis, rank)
