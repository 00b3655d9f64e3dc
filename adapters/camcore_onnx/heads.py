"""Find the linear head of a graph: walk back from the scores, one table entry an operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import CamError, HeadNotFound
from camcore.head import LinearHead
from camcore.walk import HeadWalk, batch_norm_affine, channel_axis, dense_weight, refusal, scaled, times
from camcore_onnx.constants import Constants

__all__ = ["Found", "find_head", "last_map"]


@dataclass(frozen=True, eq=False)
class Found:
    """Where the features are and how the scores come from them.

    Attributes
    ----------
    logits : ir.Value
        The scores meant: before a final softmax where there is one.
    features : ir.Value or None
        What the pooling reads; the last feature map where there is no such head; None where there is no map at all.
    channel_axis : int
        1, or the last axis for channels-last graphs.
    obstacle : str
        Why ``head`` is None.
    """

    logits: ir.Value
    features: ir.Value | None
    head: LinearHead | None
    how: str = ""
    obstacle: str = ""
    output_is: str = "logit"
    slack: Any = 0.0
    quantized: bool = False
    channel_axis: int = 1


class _Step:
    """One operator on the way back: the node, and what the table's functions need to read it."""

    def __init__(self, node: ir.Node, walk: HeadWalk, constants: Constants) -> None:
        self.node, self.walk, self.constants = node, walk, constants
        self.name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        self.channel_axis: int | None = None
        self.averaged: set[int] = set()

    def back(self) -> ir.Value:
        """The tensor that the operator reads; its part in the head is added to the walk."""
        try:
            return _STEPS[self.node.op_type](self)
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


def _same(step: _Step) -> ir.Value:
    step.walk.same(step.node.op_type)
    return step.data()


def _pick(step: _Step) -> ir.Value:
    """``x[:, :, 0, 0]``: nothing is lost where the axis is one long."""
    data, axis = step.data(), step.attribute("axis", 0)
    if data.shape is None or not _is_one(data.shape[axis]):
        raise HeadNotFound(f"{step.name} takes only a part of its input")
    step.walk.same(step.node.op_type)
    return data


def _squash(kind: str) -> Callable[[_Step], ir.Value]:
    def squash(step: _Step) -> ir.Value:
        step.walk.squash(step.node.op_type, kind)
        return step.data()

    return squash


def _gemm(step: _Step) -> ir.Value:
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


def _row(step: _Step, bias: NDArray[Any] | None, classes: int, beta: float) -> NDArray[Any] | None:
    if bias is None:
        return None
    if bias.size not in (1, classes):
        raise HeadNotFound(f"{step.name} adds {bias.shape} to {classes} scores")
    return np.broadcast_to(scaled(_exact(bias).reshape(-1), beta), (classes,))


def _exact(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _matmul(step: _Step) -> ir.Value:
    data, weight, first = step.either()
    if weight.ndim != 2:
        raise HeadNotFound(f"{step.name} multiplies with a tensor of {weight.ndim} axes")
    step.walk.linear("MatMul", weight.T if first else weight, None)
    return data


def _conv(step: _Step) -> ir.Value:
    weight, bias = step.need_constant(1), step.constant(2)
    if any(n != 1 for n in weight.shape[2:]) or any(step.attribute("pads", ())):
        raise HeadNotFound(
            f"{step.name} has a kernel of {times(weight.shape[2:])}; behind a pooling only 1x1 is linear"
        )
    groups = step.attribute("group", 1)
    step.walk.linear("Conv 1x1", dense_weight(weight.reshape(weight.shape[:2]), groups), bias)
    return step.data()


def _affine(sign: int, inverse: bool = False) -> Callable[[_Step], ir.Value]:
    """Add and Sub (sign), Mul and Div (inverse) with a constant: one number a channel."""

    def add(step: _Step) -> ir.Value:
        data, constant, first = step.either()
        step.walk.scale(step.node.op_type, 1.0 if first else float(sign), _exact(constant) * (sign if first else 1))
        return data

    def multiply(step: _Step) -> ir.Value:
        data, constant, first = step.either()
        if inverse and not first:
            raise HeadNotFound(f"{step.name} divides by a tensor that depends on the image")
        step.walk.scale(step.node.op_type, 1 / _exact(constant) if inverse else _exact(constant))
        return data

    return add if sign else multiply


def _batch_norm(step: _Step) -> ir.Value:
    gamma, beta, mean, variance = (step.need_constant(i) for i in (1, 2, 3, 4))
    factor, shift = batch_norm_affine(gamma, beta, mean, variance, step.attribute("epsilon", 1e-5))
    step.walk.scale("BatchNormalization", factor, shift)
    return step.data()


def _dequantize(step: _Step) -> ir.Value:
    inner = step.data().producer()
    if inner is None or inner.op_type != "QuantizeLinear":
        raise HeadNotFound(
            f"{step.name} reads integers from {inner.op_type if inner else 'an input'}: a quantised head"
        )
    scale = step.need_constant(1)
    if scale.size != 1:
        raise HeadNotFound(f"{step.name} has a scale for each channel of the data")
    step.walk.quantize("QuantizeLinear -> DequantizeLinear", float(scale.reshape(-1)[0]))
    return _Step(inner, step.walk, step.constants).data()


def _global_pool(step: _Step) -> ir.Value:
    step.walk.pool("GlobalAveragePool")
    return step.data()


def _average_pool(step: _Step) -> ir.Value:
    kernel, pads = step.attribute("kernel_shape", ()), step.attribute("pads", ())
    data = step.data()
    space = _space(data)
    if _covers(step, space) is False and not _flat_reader_agrees(step):
        raise HeadNotFound(
            f"{step.name} averages windows of {times(kernel)} of a map of {times(space or ())}, not the whole map"
        )
    factor = 1.0
    if any(pads) and step.attribute("count_include_pad", 0) and space and all(isinstance(n, int) for n in space):
        factor = math.prod(int(n) for n in space if isinstance(n, int)) / math.prod(kernel)
    step.walk.pool(f"AveragePool {times(kernel)}", factor)
    return data


def _covers(step: _Step, space: tuple[Any, ...] | None) -> bool | None:
    """Whether there is one window and it sees the whole map; None where the rank is not known."""
    kernel, pads, out = step.attribute("kernel_shape", ()), step.attribute("pads", ()), _space(step.node.outputs[0])
    if space is not None and all(isinstance(n, int) for n in space):
        before = pads[: len(space)] or [0] * len(space)
        whole = all(p + n <= k for p, n, k in zip(before, space, kernel, strict=False))
        return whole and all(d == 1 for d in step.attribute("dilations", ())) and (not out or all(map(_is_one, out)))
    return all(map(_is_one, out)) if out else None if space is None else False


def _flat_reader_agrees(step: _Step) -> bool:
    """Sizes are unknown, but the head reads exactly one number a channel, so the pooled map is 1x1."""
    width, channels = step.walk.width, _channels(step.node.outputs[0])
    unknown = any(not isinstance(n, int) for n in _space(step.node.outputs[0]) or ("?",))
    return unknown and width is not None and channels is not None and width == channels


def _reduce(step: _Step) -> ir.Value:
    data = step.data()
    axes = step.attribute("axes", None)
    if axes is None and len(step.node.inputs) > 1:
        given = step.constant(1)
        axes = None if given is None else [int(a) for a in given.reshape(-1)]
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


def _count(step: _Step, data: ir.Value, axes: Any) -> float:
    """How many positions a sum runs over."""
    lengths = [None] if data.shape is None else [data.shape[a] for a in axes]
    known = [n for n in lengths if isinstance(n, int)]
    if len(known) < len(lengths):
        raise HeadNotFound(f"{step.name} sums over a map whose size is not fixed")
    return float(math.prod(known))


def _obstacle(text: str) -> Callable[[_Step], ir.Value]:
    def refuse(step: _Step) -> ir.Value:
        raise HeadNotFound(text.format(step.name))

    return refuse


_MAXIMUM = "{} takes the maximum over the map, not the mean"
_STEPS: dict[str, Callable[[_Step], ir.Value]] = {
    **dict.fromkeys(("Identity", "Cast", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Reshape", "Transpose"), _same),
    "Gather": _pick,
    "Softmax": _squash("probability"),
    "Sigmoid": _squash("probability"),
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
    "LayerNormalization": _obstacle("{} normalises over the channels, so the head is not linear"),
    **dict.fromkeys(
        ("QLinearConv", "QLinearMatMul", "QGemm", "QLinearGlobalAveragePool", "QLinearAveragePool", "MatMulInteger"),
        _obstacle("{} works on integers; the quantised form with QuantizeLinear and DequantizeLinear is understood"),
    ),
}
_POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum")


def find_head(output: ir.Value, constants: Constants) -> Found:
    """Walk back from an output until the pooling is reached.

    Parameters
    ----------
    output : ir.Value
        A graph output with class scores.
    constants : Constants

    Returns
    -------
    Found
        Without a head where there is none; ``obstacle`` then names the operator in the way.
    """
    walk = HeadWalk()
    value = logits = output
    axis = 1
    try:
        while not walk.pooled:
            step = _step(value, walk, constants)
            before = walk.untouched
            value = step.back()
            axis = step.channel_axis or axis
            if before and walk.scores_are != "logit" and step.node.op_type in ("Softmax", "Sigmoid", "LogSoftmax"):
                logits = value
        value, axis = _more_pools(value, axis, walk, constants)
        value, axis = _unflatten(value, axis)
        head = walk.head(_channels(value, axis) or walk.width or _static(logits))
    except HeadNotFound as error:
        return Found(logits, last_map(value, constants), None, obstacle=_explain(output, value, walk, error))
    return Found(
        logits,
        value,
        head,
        how=walk.how(),
        output_is=walk.scores_are,
        slack=walk.slack,
        quantized=bool(np.any(walk.slack)),
        channel_axis=axis,
    )


def _step(value: ir.Value, walk: HeadWalk, constants: Constants) -> _Step:
    node = value.producer()
    if node is None:
        raise HeadNotFound("the way back reaches the input of the model")
    if node.op_type not in _STEPS or node.domain not in ("", "ai.onnx"):
        name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        raise HeadNotFound(f"{name} stands in front of the scores, and it is not linear")
    return _Step(node, walk, constants)


def _more_pools(value: ir.Value, axis: int, walk: HeadWalk, constants: Constants) -> tuple[ir.Value, int]:
    """A mean over one axis after a mean over another is one mean over both."""
    while (node := value.producer()) is not None and node.op_type in _POOLS:
        step = _Step(node, HeadWalk(), constants)
        try:
            source = step.back()
        except HeadNotFound:
            return value, axis  # a smaller pooling is part of the network
        if not step.attribute("keepdims", 1):  # the axes averaged away were dropped: count them again
            rank = len(source.shape or ()) or axis + 1
            axis = [a for a in range(rank) if a not in step.averaged][axis]
        if axis in step.averaged:
            return value, axis
        value = source
        walk.pool(node.op_type, step.walk.gain)
    return value, axis


def _unflatten(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """(N, C, H*W) made of (N, C, H, W) by a reshape: the features are the latter."""
    node = value.producer()
    if (
        node is None
        or node.op_type not in ("Reshape", "Flatten")
        or axis != 1
        or value.shape is None
        or len(value.shape) != 3
    ):
        return value, axis
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) < 4 or source.shape[1] != value.shape[1]:
        return value, axis
    return source, axis


def _explain(output: ir.Value, value: ir.Value, walk: HeadWalk, error: HeadNotFound) -> str:
    space = _space(value)
    flat = bool(space) and not all(_is_one(n) for n in space or ()) and walk.path[-1:] in (["Reshape"], ["Flatten"])
    shown = f"{value.name!r} ({times([_channels(value), *(space or ())])})" if flat else None
    return refusal([repr(output.name), *walk.path], walk.pooled, str(error), shown)


def last_map(value: ir.Value, constants: Constants) -> ir.Value | None:
    """The last tensor with spatial axes on the way back from ``value``."""
    seen: set[ir.Value] = set()
    queue = [value]
    while queue:
        value = queue.pop(0)
        if value in seen or constants.is_constant(value):
            continue
        seen.add(value)
        space = _space(value)
        node = value.producer()
        if node is None:
            continue
        if (
            space is not None
            and not all(_is_one(n) for n in space)
            and node.op_type not in ("QuantizeLinear", "Reshape")
        ):
            return value
        queue += [v for v in node.inputs if v is not None]
    return None


def _space(value: ir.Value) -> tuple[Any, ...] | None:
    """The spatial lengths of an (N, C, *S) value, int or None each; None where the rank is unknown or below 3."""
    if value.shape is None or len(value.shape) < 3:
        return None
    return tuple(n if isinstance(n, int) else None for n in value.shape[2:])


def _channels(value: ir.Value, axis: int = 1) -> int | None:
    if value.shape is None or len(value.shape) <= axis:
        return None
    n = value.shape[axis]
    return n if isinstance(n, int) else None


def _static(logits: ir.Value) -> int:
    count = _channels(logits)
    if count is None:
        raise HeadNotFound("the number of classes is not known: the model states no shapes")
    return count


def _is_one(n: Any) -> bool:
    return isinstance(n, int) and n == 1
