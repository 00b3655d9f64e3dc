"""Find the linear head in what a network did: walk back from the scores, one table entry an operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from camcore.errors import HeadNotFound
from camcore.head import LinearHead
from camcore.walk import HeadWalk, batch_norm_affine, channel_axis, dense_weight, refusal, scaled, times
from camcore_torch.record import Call, Recorder

__all__ = ["Found", "array", "find_head"]


@dataclass(frozen=True, eq=False)
class Found:
    """Numbers of the values that matter in a record: the scores before a softmax, and the features.

    ``head`` is None where there is none; ``obstacle`` then says why, and ``features`` is the last map.
    """

    logits: int
    features: int | None
    head: LinearHead | None
    how: str = ""
    obstacle: str = ""
    channel_axis: int = 1


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any device and type as a float NumPy array; half precision becomes float32."""
    tensor = tensor.detach()
    if tensor.dtype.itemsize < 4 or not tensor.dtype.is_floating_point:
        tensor = tensor.float()
    result: NDArray[Any] = tensor.cpu().numpy()
    return result


class _Step:
    def __init__(self, record: Recorder, call: Call, walk: HeadWalk, live: set[int]) -> None:
        self.record, self.call, self.walk, self.live = record, call, walk, live
        self.name = call.name
        self.channel_axis: int | None = None

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        if index < len(self.call.args):
            return self.call.args[index]
        return self.call.kwargs.get(name, default)

    def _source(self, tensor: Tensor) -> int:
        """The number that a tensor argument had when the call was made."""
        return next(n for n in self.call.sources if self.record.tensors[n] is tensor)

    def is_live(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._source(value) in self.live

    def data(self, index: int = 0) -> int:
        value = self.arg(index, "input")
        if not self.is_live(value):
            raise HeadNotFound(f"the input of {self.name} does not depend on the image")
        return self._source(value)

    def constant(self, value: Any, name: str = "weight") -> NDArray[Any]:
        if self.is_live(value):
            raise HeadNotFound(f"{self.name} has no fixed {name}: it depends on the image")
        return array(value) if isinstance(value, Tensor) else np.asarray(value, np.float32)

    def optional(self, value: Any) -> NDArray[Any] | None:
        return None if value is None else self.constant(value)

    def shape(self, number: int) -> tuple[int, ...]:
        return tuple(self.record.tensors[number].shape)


def _same(step: _Step) -> int:
    step.walk.same(step.name)
    return step.data()


def _same_numbers(step: _Step) -> int:
    """``x[:, :, 0, 0]`` and strided copies: nothing is lost."""
    data = step.data()
    if math.prod(step.shape(data)) != math.prod(step.shape(step.call.results[0])):
        raise HeadNotFound(f"{step.name} takes only a part of a {times(step.shape(data))} tensor")
    step.walk.same(step.name)
    return data


def _squash(kind: str) -> Callable[[_Step], int]:
    def squash(step: _Step) -> int:
        step.walk.squash(step.name, kind)
        return step.data()

    return squash


def _addmm(step: _Step) -> int:
    bias, data, weight = step.call.args[:3]
    beta, alpha = step.call.kwargs.get("beta", 1), step.call.kwargs.get("alpha", 1)
    step.walk.linear("addmm", scaled(step.constant(weight).T, alpha), scaled(step.constant(bias, "bias"), beta))
    return step._source(data)


def _mm(step: _Step) -> int:
    data, weight = step.call.args[:2]
    if getattr(weight, "ndim", 2) != 2 or not step.is_live(data):
        raise HeadNotFound(f"{step.name} is not (N, C) features times a (C, K) matrix")
    step.walk.linear(step.name, step.constant(weight).T, None)
    return step._source(data)


def _linear(step: _Step) -> int:
    step.walk.linear("linear", step.constant(step.arg(1, "weight")), step.optional(step.arg(2, "bias")))
    return step.data()


def _convolution(step: _Step) -> int:
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


def _binary(step: _Step) -> tuple[Tensor, Any, bool]:
    first, second = step.call.args[:2]
    if any(isinstance(t, Tensor) and step.record.made_by(step._source(t), "bernoulli") for t in (first, second)):
        raise HeadNotFound(
            "dropout is active behind the pooling (mode='caller' of a training network); take mode='eval'"
        )
    if step.is_live(first) == step.is_live(second):
        raise HeadNotFound(f"{step.name} joins two tensors that depend on the image")
    return (first, second, True) if step.is_live(first) else (second, first, False)


def _add(sign: int) -> Callable[[_Step], int]:
    def add(step: _Step) -> int:
        data, other, first = _binary(step)
        alpha = step.call.kwargs.get("alpha", 1)
        if not first and alpha != 1:
            raise HeadNotFound(f"{step.name} scales its data by alpha={alpha}")
        shift = step.constant(other, "operand") * np.float32((sign if first else 1) * alpha)
        step.walk.scale(step.name, 1.0 if first else float(sign), shift)
        return step._source(data)

    return add


def _multiply(step: _Step) -> int:
    data, other, _ = _binary(step)
    step.walk.scale(step.name, step.constant(other, "operand"))
    return step._source(data)


def _divide(step: _Step) -> int:
    data, other, first = _binary(step)
    if not first:
        raise HeadNotFound(f"{step.name} divides by a tensor that depends on the image")
    step.walk.scale(step.name, 1 / step.constant(other, "operand"))
    return step._source(data)


def _batch_norm(step: _Step) -> int:
    names = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (step.optional(step.arg(i, n)) for i, n in enumerate(names, start=1))
    legit = "no_training" in step.name
    if mean is None or variance is None or (not legit and step.arg(5, "training")):
        raise HeadNotFound("a batch normalisation with the statistics of the batch stands behind the pooling")
    epsilon = step.arg(6 if legit else 7, "eps")
    step.walk.scale(step.name, *batch_norm_affine(gamma, beta, mean, variance, epsilon))
    return step.data()


def _mean(step: _Step) -> int:
    data = step.data()
    shape, axes = step.shape(data), step.arg(1, "dim")
    if not axes:
        raise HeadNotFound(f"{step.name} runs over all axes, the batch included")
    step.channel_axis = channel_axis(step.name, axes, len(shape))
    step.walk.pool(step.name, float(math.prod(shape[a] for a in axes)) if step.name == "sum" else 1.0)
    return data


def _window_mean(step: _Step) -> int:
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


def _window_factor(step: _Step, space: tuple[int, ...]) -> float:
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


def _obstacle(text: str) -> Callable[[_Step], int]:
    def refuse(step: _Step) -> int:
        raise HeadNotFound(text.format(step.name))

    return refuse


_SAME = [
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
_FLATTENERS = ("view", "_unsafe_view", "reshape", "_reshape_copy", "flatten", "clone")
_MAXIMUM = "{} takes the maximum over the map, not the mean"
_STEPS: dict[str, Callable[[_Step], int]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(("select", "slice", "as_strided", "expand"), _same_numbers),
    "_softmax": _squash("probability"),
    "softmax": _squash("probability"),
    "sigmoid": _squash("probability"),
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
    "native_layer_norm": _obstacle("{} normalises over the channels, so the head is not linear"),
}
_POOLS = (
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
)


def find_head(record: Recorder, scores: int, start: int) -> Found:
    """Walk back from the scores until the pooling is reached.

    Parameters
    ----------
    record : Recorder
    scores : int
        Number of the value with the scores.
    start : int
        Number of the value that the record begins with: the images, or the features when only the tail was recorded.
    """
    live = record.depends_on(start)
    walk, value, logits, axis = HeadWalk(), scores, scores, 1
    try:
        while not walk.pooled:
            step = _step(record, value, walk, live)
            value = _STEPS[step.name](step)
            axis = step.channel_axis or axis
            logits = value if walk.untouched and walk.scores_are != "logit" and step.name not in _SAME else logits
        value = _more_pools(record, value, walk, live)
        value = _unflatten(record, value) if axis == 1 else value
        if value not in record.producer:
            raise HeadNotFound("the pooling reads the images themselves")
        head = walk.head(record.tensors[value].shape[axis])
    except HeadNotFound as error:
        return Found(logits, _last_map(record, value, live), None, obstacle=_explain(record, value, walk, error))
    return Found(logits, value, head, how=walk.how(), channel_axis=axis)


def _step(record: Recorder, value: int, walk: HeadWalk, live: set[int]) -> _Step:
    if value not in record.producer:
        raise HeadNotFound("the way back reaches the images")
    step = _Step(record, record.calls[record.producer[value]], walk, live)
    if step.name not in _STEPS:
        raise HeadNotFound(f"{step.name} stands in front of the scores, and it is not linear")
    return step


def _more_pools(record: Recorder, value: int, walk: HeadWalk, live: set[int]) -> int:
    """A mean over one axis after a mean over another is one mean over both."""
    while value in record.producer and record.calls[record.producer[value]].name in _POOLS:
        call = record.calls[record.producer[value]]
        try:
            value = _STEPS[call.name](_Step(record, call, HeadWalk(), live))
        except HeadNotFound:
            return value  # a smaller pooling is part of the network
        walk.pool(call.name)
    return value


def _unflatten(record: Recorder, value: int) -> int:
    """(N, C, H*W) made of (N, C, H, W), or (N, C, 1, L) made of (N, C, L): the features are what it was made of."""
    while value in record.producer and record.calls[record.producer[value]].name in (*_FLATTENERS, "unsqueeze"):
        source = record.calls[record.producer[value]].sources[0]
        before, after = record.tensors[source].shape, record.tensors[value].shape
        if len(before) < 3 or before[:2] != after[:2]:
            break
        value = source
    return value


def _last_map(record: Recorder, value: int, live: set[int]) -> int | None:
    """The last value with spatial axes on the way back from ``value``."""
    seen: set[int] = set()
    queue = [value]
    while queue:
        number = queue.pop(0)
        if number in seen or number not in live or number not in record.producer:
            continue
        seen.add(number)
        shape = record.tensors[number].shape
        if len(shape) >= 3 and math.prod(shape[2:]) > 1:
            return number
        queue += record.calls[record.producer[number]].sources
    return None


def _explain(record: Recorder, value: int, walk: HeadWalk, error: HeadNotFound) -> str:
    shape = tuple(record.tensors[value].shape)
    flat = len(shape) > 3 and math.prod(shape[2:]) > 1 and walk.path[-1:] and walk.path[-1] in _FLATTENERS
    return refusal(["scores", *walk.path], walk.pooled, str(error), f"({times(shape[1:])})" if flat else None)
