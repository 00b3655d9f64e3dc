"""What stands between features and scores: a table of operators, one entry each, read backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import CamError, HeadNotFound
from camcore.head import WHOLE
from camcore.walk import HeadWalk, batch_norm_affine, channel_axis, dense_weight, scaled, times
from camcore_onnx.constants import Constants
from camcore_onnx.norms import layer_norm, reduced_axes
from camcore_onnx.shapes import channels_of, is_one, rank_of, space_of

__all__ = ["POOLS", "STEPS", "Step", "channels_of", "is_one", "space_of"]


class Step:
    """One operator on the way back: the node, and what the table's functions need to read it."""

    def __init__(self, node: ir.Node, walk: HeadWalk, constants: Constants) -> None:
        self.node, self.walk, self.constants = node, walk, constants
        self.name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        self.channel_axis: int | None = None
        self.averaged: set[int] = set()

    def back(self) -> ir.Value:
        """The tensor that the operator reads; its part in the head is added to the walk."""
        try:
            return STEPS[self.node.op_type](self)
        except (IndexError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, CamError):
                raise
            raise HeadNotFound(f"{self.name} is not as its operator is defined ({error})") from error

    def data(self, index: int = 0) -> ir.Value:
        value = self.node.inputs[index]
        if value is None or self.constants.is_constant(value):
            raise HeadNotFound(f"the input of {self.name} is a constant")
        return value

    def constant(self, index: int) -> NDArray[Any] | None:
        return self.constants.value(self.node.inputs[index]) if index < len(self.node.inputs) else None

    def need_constant(self, index: int) -> NDArray[Any]:
        value = self.constant(index)
        if value is None:
            raise HeadNotFound(f"{self.name} has no constant weights: both its operands depend on the image")
        return value

    def either(self) -> tuple[ir.Value, NDArray[Any], bool]:
        """The operand that depends on the image, the other one, and whether the first came first."""
        first, second = (self.constants.is_constant(v) for v in self.node.inputs[:2])
        if first == second:
            raise HeadNotFound(f"{self.name} joins two tensors that depend on the image")
        return (self.data(1), self.need_constant(0), False) if first else (self.data(0), self.need_constant(1), True)

    def attribute(self, name: str, default: Any) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value


def _same(step: Step) -> ir.Value:
    step.walk.same(step.node.op_type)
    return step.data()


def _pick(step: Step) -> ir.Value:
    """``x[:, :, 0, 0]``: nothing is lost where the axis is one long."""
    data, axis = step.data(), step.attribute("axis", 0)
    if _in_order(step, data):
        step.walk.same("as_strided")
        return data
    if data.shape is None or not is_one(data.shape[axis]):
        raise HeadNotFound(f"{step.name} takes only a part of its input")
    step.walk.same(step.node.op_type)
    return data


def _in_order(step: Step, flat: ir.Value) -> bool:
    """``as_strided`` of a pooled map as PyTorch exports it: made flat, then gathered into the shape that it had.

    The order itself is worked out in the graph; the head that is found must reproduce the scores anyhow.
    """
    node = flat.producer()
    pooled = node.inputs[0] if node is not None and node.op_type == "Reshape" else None
    if pooled is None or rank_of(flat) != 1 or rank_of(pooled) < 3 or channels_of(pooled) is None:
        return False
    return all(map(is_one, space_of(pooled) or ())) and pooled.shape == step.node.outputs[0].shape


def _squash(kind: str) -> Callable[[Step], ir.Value]:
    def squash(step: Step) -> ir.Value:
        step.walk.squash(step.node.op_type, kind)
        return step.data()

    return squash


def _gemm(step: Step) -> ir.Value:
    if step.attribute("transA", 0):
        raise HeadNotFound(f"{step.name} transposes its data")
    weight = step.need_constant(1)
    if weight.ndim != 2:
        raise HeadNotFound(f"{step.name} multiplies with a tensor of {weight.ndim} axes")
    weight = weight if step.attribute("transB", 0) else weight.T
    bias = step.constant(2)
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    step.walk.linear("Gemm", scaled(_exact(weight), alpha), _row(step, bias, len(weight), beta))
    return step.data()


def _row(step: Step, bias: NDArray[Any] | None, classes: int, beta: float) -> NDArray[Any] | None:
    if bias is None:
        return None
    if bias.size not in (1, classes):
        raise HeadNotFound(f"{step.name} adds {bias.shape} to {classes} scores")
    return np.broadcast_to(scaled(_exact(bias).reshape(-1), beta), (classes,))


def _exact(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _matmul(step: Step) -> ir.Value:
    data, weight, first = step.either()
    if weight.ndim != 2:
        raise HeadNotFound(f"{step.name} multiplies with a tensor of {weight.ndim} axes")
    step.walk.linear("MatMul", weight.T if first else weight, None)
    return data


def _conv(step: Step) -> ir.Value:
    weight, bias = step.need_constant(1), step.constant(2)
    if any(n != 1 for n in weight.shape[2:]) or any(step.attribute("pads", ())):
        raise HeadNotFound(
            f"{step.name} has a kernel of {times(weight.shape[2:])}; behind a pooling only 1x1 is linear"
        )
    groups = step.attribute("group", 1)
    step.walk.linear("Conv 1x1", dense_weight(weight.reshape(weight.shape[:2]), groups), bias)
    return step.data()


def _affine(sign: int, inverse: bool = False) -> Callable[[Step], ir.Value]:
    """Add and Sub (sign), Mul and Div (inverse) with a constant: one number a channel."""

    def add(step: Step) -> ir.Value:
        data, constant, first = step.either()
        step.walk.scale(step.node.op_type, 1.0 if first else float(sign), _exact(constant) * (sign if first else 1))
        return data

    def multiply(step: Step) -> ir.Value:
        if inverse and layer_norm(step.node, step.constants):
            return _layer_norm(step)
        data, constant, first = step.either()
        if inverse and not first:
            raise HeadNotFound(f"{step.name} divides by a tensor that depends on the image")
        step.walk.scale(step.node.op_type, 1 / _exact(constant) if inverse else _exact(constant))
        return data

    return add if sign else multiply


def _batch_norm(step: Step) -> ir.Value:
    gamma, beta, mean, variance = (step.need_constant(i) for i in (1, 2, 3, 4))
    factor, shift = batch_norm_affine(gamma, beta, mean, variance, step.attribute("epsilon", 1e-5))
    step.walk.scale("BatchNormalization", factor, shift)
    return step.data()


def _layer_norm(step: Step) -> ir.Value:
    """Over all channels of what is pooled already: a layer normalisation in front of the pooling is never met here."""
    norm = layer_norm(step.node, step.constants)
    if norm is None or not norm.covers_all:
        raise HeadNotFound(f"{step.name} does not normalise over all channels of pooled features, with fixed weights")
    step.walk.layer_norm(norm.name, norm.gamma, norm.beta, norm.epsilon)
    return norm.data


def _dequantize(step: Step) -> ir.Value:
    inner, moves = step.data().producer(), []
    while inner is not None and inner.op_type in _MOVES and inner.inputs[0] is not None:
        moves.append(inner.op_type)
        inner = inner.inputs[0].producer()
    if inner is None or inner.op_type != "QuantizeLinear":
        raise HeadNotFound(
            f"{step.name} reads integers from {inner.op_type if inner else 'an input'}: a quantised head"
        )
    scale = step.need_constant(1)
    if scale.size != 1:
        raise HeadNotFound(f"{step.name} has a scale for each channel of the data")
    chain = ["QuantizeLinear", *reversed(moves), "DequantizeLinear"]
    size = float(scale.reshape(-1)[0])
    step.walk.quantize(" -> ".join(chain), size, _span(step, size))
    return Step(inner, step.walk, step.constants).data()


def _span(step: Step, size: float) -> tuple[float, float]:
    """The floats that the smallest and the largest integer stand for."""
    zero, dtype = step.constant(2), step.data().dtype
    if zero is None and dtype is None:
        return WHOLE
    limits = np.iinfo(zero.dtype if zero is not None else dtype.numpy())  # type: ignore[union-attr]  # one is given
    middle = 0 if zero is None else int(zero.reshape(-1)[0])
    return (limits.min - middle) * size, (limits.max - middle) * size


def _global_pool(step: Step) -> ir.Value:
    step.walk.pool("GlobalAveragePool")
    return step.data()


def _average_pool(step: Step) -> ir.Value:
    kernel, pads = step.attribute("kernel_shape", ()), step.attribute("pads", ())
    data = step.data()
    space = space_of(data)
    if _covers(step, space) is False and not _flat_reader_agrees(step):
        raise HeadNotFound(
            f"{step.name} averages windows of {times(kernel)} of a map of {times(space or ())}, not the whole map"
        )
    factor = 1.0
    if any(pads) and step.attribute("count_include_pad", 0) and space and all(isinstance(n, int) for n in space):
        factor = math.prod(int(n) for n in space if isinstance(n, int)) / math.prod(kernel)
    step.walk.pool(f"AveragePool {times(kernel)}", factor)
    return data


def _covers(step: Step, space: tuple[Any, ...] | None) -> bool | None:
    """Whether there is one window and it sees the whole map; None where the rank is not known."""
    kernel, pads, out = step.attribute("kernel_shape", ()), step.attribute("pads", ()), space_of(step.node.outputs[0])
    if space is not None and all(isinstance(n, int) for n in space):
        before = pads[: len(space)] or [0] * len(space)
        whole = all(p + n <= k for p, n, k in zip(before, space, kernel, strict=False))
        return whole and all(d == 1 for d in step.attribute("dilations", ())) and (not out or all(map(is_one, out)))
    return all(map(is_one, out)) if out else None if space is None else False


def _flat_reader_agrees(step: Step) -> bool:
    """Sizes are unknown, but the head reads exactly one number a channel, so the pooled map is 1x1."""
    width, channels = step.walk.width, channels_of(step.node.outputs[0])
    unknown = any(not isinstance(n, int) for n in space_of(step.node.outputs[0]) or ("?",))
    return unknown and width is not None and channels is not None and width == channels


def _reduce(step: Step) -> ir.Value:
    data = step.data()
    axes = reduced_axes(step.node, step.constants)
    if not axes:
        raise HeadNotFound(f"{step.name} averages over axes that are not known, or over all")
    if data.shape is None:
        if not (all(a < 0 for a in axes) or all(a >= 2 for a in axes)):
            raise HeadNotFound(f"{step.name} averages over axes {list(axes)} of a tensor of unknown rank")
        step.channel_axis = 1
    else:
        step.channel_axis = channel_axis(step.name, axes, len(data.shape))
        step.averaged = {a % len(data.shape) for a in axes}
    step.walk.pool(step.node.op_type, _count(step, data, axes) if step.node.op_type == "ReduceSum" else 1.0)
    return data


def _count(step: Step, data: ir.Value, axes: Any) -> float:
    """How many positions a sum runs over."""
    lengths = [None] if data.shape is None else [data.shape[a] for a in axes]
    known = [n for n in lengths if isinstance(n, int)]
    if len(known) < len(lengths):
        raise HeadNotFound(f"{step.name} sums over a map whose size is not fixed")
    return float(math.prod(known))


def _obstacle(text: str) -> Callable[[Step], ir.Value]:
    def refuse(step: Step) -> ir.Value:
        raise HeadNotFound(text.format(step.name))

    return refuse


_MOVES = ("Flatten", "Squeeze", "Unsqueeze", "Reshape", "Identity")  # of integers as of floats
_MAXIMUM = "{} takes the maximum over the map, not the mean"
STEPS: dict[str, Callable[[Step], ir.Value]] = {
    **dict.fromkeys(("Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Reshape", "Transpose"), _same),
    "Gather": _pick,
    "Softmax": _squash("probability"),
    "Sigmoid": _squash("independent"),
    "LogSoftmax": _squash("log-probability"),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "Add": _affine(1),
    "Sub": _affine(-1),
    "Mul": _affine(0),
    "Div": _affine(0, inverse=True),
    "BatchNormalization": _batch_norm,
    "DequantizeLinear": _dequantize,
    "GlobalAveragePool": _global_pool,
    "AveragePool": _average_pool,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    **dict.fromkeys(("GlobalMaxPool", "MaxPool", "ReduceMax"), _obstacle(_MAXIMUM)),
    "Concat": _obstacle("{} joins several tensors in front of the scores"),
    "LayerNormalization": _layer_norm,
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "QGemm", "QLinearGlobalAveragePool", "QLinearAveragePool", "MatMulInteger"),
        _obstacle("{} works on integers; the quantised form with QuantizeLinear and DequantizeLinear is understood"),
    ),
}
POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum")
