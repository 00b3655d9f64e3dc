"""What stands between features and scores: a table of operations, one entry each, read backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camcore.errors import HeadNotFound
from camcore.walk import HeadWalk, batch_norm_affine, channel_axis, dense_weight, scaled, times
from camcore_torch.record import Call, Recorder

__all__ = ["FLATTENERS", "POOLS", "SAME", "STEPS", "Step", "array"]


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any device and type as a float NumPy array; half precision becomes float32."""
    tensor = tensor.detach()
    if tensor.dtype.itemsize < 4 or not tensor.dtype.is_floating_point:
        tensor = tensor.float()
    result: NDArray[Any] = tensor.cpu().numpy()
    return result


class Step:
    def __init__(self, record: Recorder, call: Call, walk: HeadWalk, live: set[int]) -> None:
        self.record, self.call, self.walk, self.live = record, call, walk, live
        self.name = call.name
        self.channel_axis: int | None = None

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        if index < len(self.call.args):
            return self.call.args[index]
        return self.call.kwargs.get(name, default)

    def source(self, tensor: Tensor) -> int:
        """The number that a tensor argument had when the call was made."""
        return next(n for n in self.call.sources if self.record.tensors[n] is tensor)

    def is_live(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self.source(value) in self.live

    def data(self, index: int = 0) -> int:
        value = self.arg(index, "input")
        if not self.is_live(value):
            raise HeadNotFound(f"the input of {self.name} does not depend on the image")
        return self.source(value)

    def constant(self, value: Any, name: str = "weight") -> NDArray[Any]:
        if self.is_live(value):
            raise HeadNotFound(f"{self.name} has no fixed {name}: it depends on the image")
        return array(value) if isinstance(value, Tensor) else np.asarray(value, np.float32)

    def optional(self, value: Any) -> NDArray[Any] | None:
        return None if value is None else self.constant(value)

    def shape(self, number: int) -> tuple[int, ...]:
        return tuple(self.record.tensors[number].shape)


def _same(step: Step) -> int:
    step.walk.same(step.name)
    return step.data()


def _same_numbers(step: Step) -> int:
    """``x[:, :, 0, 0]`` and strided copies: nothing is lost."""
    data = step.data()
    if math.prod(step.shape(data)) != math.prod(step.shape(step.call.results[0])):
        raise HeadNotFound(f"{step.name} takes only a part of a {times(step.shape(data))} tensor")
    step.walk.same(step.name)
    return data


def _squash(kind: str) -> Callable[[Step], int]:
    def squash(step: Step) -> int:
        step.walk.squash(step.name, kind)
        return step.data()

    return squash


def _addmm(step: Step) -> int:
    bias, data, weight = step.call.args[:3]
    beta, alpha = step.call.kwargs.get("beta", 1), step.call.kwargs.get("alpha", 1)
    step.walk.linear("addmm", scaled(step.constant(weight).T, alpha), scaled(step.constant(bias, "bias"), beta))
    return step.source(data)


def _mm(step: Step) -> int:
    data, weight = step.call.args[:2]
    if getattr(weight, "ndim", 2) != 2 or not step.is_live(data):
        raise HeadNotFound(f"{step.name} is not (N, C) features times a (C, K) matrix")
    step.walk.linear(step.name, step.constant(weight).T, None)
    return step.source(data)


def _linear(step: Step) -> int:
    step.walk.linear("linear", step.constant(step.arg(1, "weight")), step.optional(step.arg(2, "bias")))
    return step.data()


def _convolution(step: Step) -> int:
    weight, bias, padding, groups = (
        step.constant(step.arg(1, "weight")),
        step.arg(2, "bias"),
        step.arg(4, "padding"),
        step.arg(8, "groups"),
    )
    if any(n != 1 for n in weight.shape[2:]) or any(padding) or step.arg(6, "transposed"):
        raise HeadNotFound(f"a convolution of {times(weight.shape[2:])} stands behind the pooling; only 1x1 is linear")
    step.walk.linear("convolution 1x1", dense_weight(weight.reshape(weight.shape[:2]), groups), step.optional(bias))
    return step.data()


def _binary(step: Step) -> tuple[Tensor, Any, bool]:
    first, second = step.call.args[:2]
    if any(isinstance(t, Tensor) and step.record.made_by(step.source(t), "bernoulli") for t in (first, second)):
        raise HeadNotFound(
            "dropout is active behind the pooling (mode='caller' of a training network); take mode='eval'"
        )
    if step.is_live(first) == step.is_live(second):
        raise HeadNotFound(f"{step.name} joins two tensors that depend on the image")
    return (first, second, True) if step.is_live(first) else (second, first, False)


def _add(sign: int) -> Callable[[Step], int]:
    def add(step: Step) -> int:
        data, other, first = _binary(step)
        alpha = step.call.kwargs.get("alpha", 1)
        if not first and alpha != 1:
            raise HeadNotFound(f"{step.name} scales its data by alpha={alpha}")
        shift = step.constant(other, "operand") * np.float32((sign if first else 1) * alpha)
        step.walk.scale(step.name, 1.0 if first else float(sign), shift)
        return step.source(data)

    return add


def _multiply(step: Step) -> int:
    data, other, _ = _binary(step)
    step.walk.scale(step.name, step.constant(other, "operand"))
    return step.source(data)


def _divide(step: Step) -> int:
    data, other, first = _binary(step)
    if not first:
        raise HeadNotFound(f"{step.name} divides by a tensor that depends on the image")
    step.walk.scale(step.name, 1 / step.constant(other, "operand"))
    return step.source(data)


def _batch_norm(step: Step) -> int:
    names = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (step.optional(step.arg(i, n)) for i, n in enumerate(names, start=1))
    legit = "no_training" in step.name
    if mean is None or variance is None or (not legit and step.arg(5, "training")):
        raise HeadNotFound("a batch normalisation with the statistics of the batch stands behind the pooling")
    epsilon = step.arg(6 if legit else 7, "eps")
    step.walk.scale(step.name, *batch_norm_affine(gamma, beta, mean, variance, epsilon))
    return step.data()


def _layer_norm(step: Step) -> int:
    """Over all channels of what is pooled already: a layer normalisation in front of the pooling is never met here."""
    data = step.data()
    space, lengths = step.shape(data)[1:], step.arg(1, "normalized_shape")
    if not max(lengths) == math.prod(lengths) == math.prod(space):
        raise HeadNotFound(
            f"{step.name} normalises {times(lengths)} values of a {times(space)} tensor; only one over all channels of "
            "pooled features is understood"
        )
    gamma, beta = step.optional(step.arg(2, "weight")), step.optional(step.arg(3, "bias"))
    step.walk.layer_norm("layer_norm", gamma, beta, float(step.arg(4, "eps")))
    return data


def _mean(step: Step) -> int:
    data = step.data()
    shape, axes = step.shape(data), step.arg(1, "dim")
    if not axes:
        raise HeadNotFound(f"{step.name} runs over all axes, the batch included")
    step.channel_axis = channel_axis(step.name, axes, len(shape))
    step.walk.pool(step.name, float(math.prod(shape[a] for a in axes)) if step.name == "sum" else 1.0)
    return data


def _window_mean(step: Step) -> int:
    """avg_pool1d, 2d, 3d and the adaptive ones: the mean where one window covers the whole map."""
    data = step.data()
    space, pooled = step.shape(data)[2:], step.shape(step.call.results[0])[2:]
    if any(n != 1 for n in pooled):
        raise HeadNotFound(
            f"{step.name} averages windows of a map of {times(space)} to {times(pooled)}, not the whole map"
        )
    factor = 1.0
    if not step.name.startswith(("adaptive", "_adaptive")):
        factor = _window_factor(step, space)
    step.walk.pool(step.name, factor)
    return data


def _window_factor(step: Step, space: tuple[int, ...]) -> float:
    kernel, padding = (_full(step.arg(i, n, 0), len(space)) for i, n in ((1, "kernel_size"), (3, "padding")))
    if any(k < n for k, n in zip(kernel, space, strict=True)):
        raise HeadNotFound(f"{step.name} averages {times(kernel)} of a map of {times(space)}, not the whole map")
    divisor = step.arg(6, "divisor_override")
    padded = any(padding) and step.arg(5, "count_include_pad", True)
    if any(k > n + 2 * p for k, n, p in zip(kernel, space, padding, strict=True)):
        return 1.0
    return math.prod(space) / (divisor or (math.prod(kernel) if padded else math.prod(space)))


def _full(value: Any, count: int) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * count if len(numbers) == 1 else numbers


def _obstacle(text: str) -> Callable[[Step], int]:
    def refuse(step: Step) -> int:
        raise HeadNotFound(text.format(step.name))

    return refuse


SAME = [
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_copy",
    "squeeze",
    "unsqueeze",
    "flatten",
    "clone",
    "alias",
    "detach",
    "_to_copy",
    "contiguous",
    "permute",
    "transpose",
    "t",
    "dropout",
    "to",
]
FLATTENERS = ("view", "_unsafe_view", "reshape", "_reshape_copy", "flatten", "clone")
_MAXIMUM = "{} takes the maximum over the map, not the mean"
STEPS: dict[str, Callable[[Step], int]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("select", "slice", "as_strided", "expand"), _same_numbers),
    "_softmax": _squash("probability"),
    "softmax": _squash("probability"),
    "sigmoid": _squash("independent"),
    "_log_softmax": _squash("log-probability"),
    "log_softmax": _squash("log-probability"),
    "addmm": _addmm,
    "mm": _mm,
    "matmul": _mm,
    "linear": _linear,
    "convolution": _convolution,
    "add": _add(1),
    "sub": _add(-1),
    "mul": _multiply,
    "div": _divide,
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("mean", "sum"), _mean),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _window_mean),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"), _window_mean),
    **dict.fromkeys(("max_pool2d_with_indices", "adaptive_max_pool2d", "amax", "max"), _obstacle(_MAXIMUM)),
    "cat": _obstacle("{} joins several tensors in front of the scores"),
    "native_layer_norm": _layer_norm,
}
POOLS = (
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
)
