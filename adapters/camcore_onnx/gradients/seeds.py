"""The slopes of a target over the class scores, as nodes: where the backward sweep begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from camcore.errors import InputError, suggest
from camcore.targets import COUNT, STRENGTH
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["SLOPES", "Seeds", "best_classes", "chosen_classes", "every_class", "slopes"]

_WHOLE, _FLOAT, _BOOL = ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.BOOL
_COUNT_BY_INPUT = 10  # since this opset TopK reads how many
_LEAST = float(np.finfo(np.float32).min)


class Seeds:
    """Scores and the class explained in each row, and what slopes are made of.

    Attributes
    ----------
    scores : (R, K) Tensor
        Before a final softmax, as float32 or float64.
    mine : (R, K) Tensor
        One at the class explained, else zero.
    alone : bool
        Whether each class has a sigmoid of its own.
    """

    def __init__(self, scores: Tensor, classes: Tensor, *, alone: bool) -> None:
        self.scores, self.classes = scores, classes
        self.alone = alone or scores.shape[1] == 1
        self.mask = self.at(classes)
        self.mine = self.mask.cast(scores.dtype)

    def at(self, classes: Tensor) -> Tensor:
        """A mask (R, K) that is true at one class a row, (R, 1)."""
        return classes.equals(np.arange(self.scores.shape[1] or 0, dtype=np.int64)[None])

    def relative(self) -> Tensor:
        """Slopes of ``ln p_c``: ``1 - p_c``, which is what the others have together, and ``-p_j``."""
        if self.alone:
            return self.mine * _logistic(-self.scores)
        others = self._probabilities() * (1 - self.mine)
        return self.mine * others.sum(1) - others

    def probability(self) -> Tensor:
        """``p_c`` of each row, (R, 1)."""
        probabilities = _logistic(self.scores) if self.alone else self._probabilities()
        return (probabilities * self.mine).sum(1)

    def _probabilities(self) -> Tensor:
        return self.scores.unary("Softmax", axis=1)

    def rival(self) -> Tensor:
        """The best class beside the one explained, (R, 1)."""
        rest = self.mask.where(_LEAST, self.scores)
        return self.scores.pen.op("ArgMax", rest, shape=(rest.shape[0], 1), dtype=_WHOLE, axis=1, keepdims=1)

    def nearest(self) -> list[Tensor]:
        """The classes whose scores are nearest to that of the class explained, each (R, 1)."""
        pen, count = self.scores.pen, min(COUNT, (self.scores.shape[1] or 1) - 1)
        if not count:
            return []
        distance = (self.scores - (self.scores * self.mine).sum(1)).unary("Abs")
        _, found = top(pen, self.mask.where(_LEAST, -distance), count)
        return [found.slice(1, k, k + 1) for k in range(count)]


def _logistic(x: Tensor) -> Tensor:
    """Small numbers too are right: ONNX Runtime's Sigmoid gives no less than 1e-8 or so."""
    return 1 / (1 + (-x).unary("Exp"))


def _logit(seeds: Seeds) -> Tensor:
    mine = seeds.mine
    return Tensor(mine.pen, mine.value, mine.dtype, mine.shape, hot=seeds.classes)


def _log_probability(seeds: Seeds) -> Tensor:
    return seeds.relative()


def _probability(seeds: Seeds) -> Tensor:
    return seeds.relative() * seeds.probability()


def _rest(seeds: Seeds) -> Tensor:
    return seeds.relative() + seeds.mine


def _difference(seeds: Seeds, other: int | None = None) -> Tensor:
    last = (seeds.scores.shape[1] or 1) - 1
    if other is None and not last:
        raise InputError("target difference: the model has one class and no other to compare with; take logit")
    if other is not None and other > last:
        raise InputError(f"target difference:{other}: the model has {last + 1} classes, 0 to {last}")
    rival = seeds.rival() if other is None else seeds.scores.pen.constant(np.array([[other]], np.int64))
    return seeds.mine - seeds.at(rival).cast(seeds.mine.dtype)


def _finer(seeds: Seeds) -> Tensor:
    rivals = [seeds.at(rival).cast(seeds.mine.dtype) for rival in seeds.nearest()]
    slopes = seeds.mine
    for rival in rivals:
        slopes = slopes - rival * (STRENGTH / len(rivals))
    return slopes


SLOPES: Mapping[str, Callable[[Seeds], Tensor]] = MappingProxyType(
    {
        "logit": _logit,
        "probability": _probability,
        "log-probability": _log_probability,
        "rest": _rest,
        "difference": _difference,
        "finer": _finer,
    }
)


def slopes(seeds: Seeds, target: str) -> Tensor:
    """The (R, K) derivatives of a target with respect to the scores.

    Parameters
    ----------
    seeds : Seeds
    target : str
        As in :func:`camcore.targets.target`: a name, or ``"difference:7"``.

    Raises
    ------
    InputError
        For a target that has no such form, or a class that the model lacks.
    """
    name, _, other = target.partition(":")
    if target == "logit":
        return _logit(seeds)
    if name == "difference" and other.isdecimal():
        found = _difference(seeds, int(other))
    elif target in SLOPES:
        found = SLOPES[target](seeds)
    else:
        raise InputError(f"target {target!r} has no form as nodes of a graph. {suggest(target, SLOPES)}")
    return found * seeds.mine.sum(1)  # zero for a class that is not there


def chosen_classes(pen: Pen, scores: Tensor, classes: Tensor) -> Tensor:
    """The (N, T) classes meant: an index, or -1 in column t for the class of rank t (the first column: the best).

    Parameters
    ----------
    scores : (N, K) Tensor
    classes : (N, T) Tensor of int64
    """
    if classes.shape[1] == 1:
        best = pen.op("ArgMax", scores, shape=(scores.shape[0], 1), dtype=_WHOLE, axis=1, keepdims=1)
    else:
        last = (scores.shape[1] or 1) - 1
        ranks = _counted(classes)
        best = top(pen, scores, last + 1)[1].gather((ranks < last).where(ranks, last), 1)
    return (classes < 0).where(best, classes)


def _counted(classes: Tensor) -> Tensor:
    """0, 1, ... for each column."""
    one = ir.tensor(np.ones(1, np.float32))
    shape = (classes.shape[1],)
    ones = classes.pen.op("ConstantOfShape", classes.length(1), shape=shape, value=one)
    return classes.pen.op("NonZero", ones, shape=(1, *shape), dtype=_WHOLE).squeeze(0)


def best_classes(graph: ir.Graph, scores: ir.Value, count: int) -> ir.Value:
    """The (N, count) best classes of scores whose shape is not known yet."""
    single = scores if scores.dtype == ir.DataType.DOUBLE else _append(graph, "Cast", scores, to=int(_FLOAT))
    rows = _append(graph, "Reshape", single, _store(graph, "rows", [0, -1]))
    if graph.opset_imports.get("", 0) < _COUNT_BY_INPUT:
        return _append(graph, "TopK", rows, outputs=2, axis=1, k=count)
    return _append(graph, "TopK", rows, _store(graph, "count", [count]), outputs=2)


def every_class(graph: ir.Graph, scores: ir.Value, count: int) -> ir.Value:
    """0, 1, ... for each image, (N, count)."""
    rows = _append(graph, "Gather", _append(graph, "Shape", scores), _store(graph, "first", [0]), axis=0)
    lengths = _append(graph, "Concat", rows, _store(graph, "count", [count]), axis=0)
    return _append(graph, "Expand", _store(graph, "every", list(range(count))), lengths)


def _append(graph: ir.Graph, kind: str, *inputs: ir.Value, outputs: int = 1, **attributes: int) -> ir.Value:
    values = [ir.Value(name=f"grad/best/{kind}{i or ''}") for i in range(outputs)]
    wrapped = ir.convenience.convert_attributes(attributes)
    graph.append(ir.Node("", kind, inputs, wrapped, outputs=values, name=f"grad/best/{kind}"))
    return values[-1]


def _store(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    stored = ir.tensor(np.array(numbers, np.int64), name=f"grad/best/{name}")
    value = ir.Value(
        name=stored.name, const_value=stored, type=ir.TensorType(stored.dtype), shape=ir.Shape([len(numbers)])
    )
    graph.register_initializer(value)
    return value


def top(pen: Pen, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest numbers of each row, and where they are."""
    shapes, dtypes = [(scores.shape[0], count)] * 2, [scores.dtype, _WHOLE]
    if pen.opset < _COUNT_BY_INPUT:
        return _pair(pen.ops("TopK", 2, scores, shapes=shapes, dtypes=dtypes, axis=1, k=count))
    number = np.array([count], np.int64)
    return _pair(pen.ops("TopK", 2, scores, number, shapes=shapes, dtypes=dtypes, axis=1))


def _pair(found: list[Tensor]) -> tuple[Tensor, Tensor]:
    return found[0], found[1]
