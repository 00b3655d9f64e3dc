"""Linear operators that work on each axis by itself: their matrices are what they make of an identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.constants import Constants
from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.reading.load import Loaded

__all__ = ["along", "computed", "matrix"]

Apply = Callable[[Tensor], Tensor]


def matrix(at: Step, axis: int, apply: Apply, *, fixed: bool = True) -> Tensor | None:
    """What an operator does along an axis of input 0: ``x @ matrix``; None where it changes nothing.

    Parameters
    ----------
    at : Step
    axis : int
    apply : callable
        Writes the operator for a square tensor of floats, along its last axis; the rows are independent.
    fixed : bool
        False where what ``apply`` reads of the graph is known only when the model runs.
    """
    n = at.shape()[axis]
    if n is None:
        return apply(_eye(at.pen, at.bare().length(axis)))
    if not fixed:
        return apply(at.pen.constant(np.eye(n, dtype=np.float32)))
    array = computed(at, apply, n)
    return None if np.array_equal(array, np.eye(n)) else at.pen.constant(array)


def computed(at: Step, apply: Apply, n: int) -> NDArray[Any]:
    """The same matrix for ``n`` numbers, by ONNX Runtime."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(at.pen.graph.opset_imports), name="matrix")
    loaded = Loaded(ir.Model(graph, ir_version=10), "matrix")
    pen = Pen(graph, Facts(Constants(loaded)))
    found = Constants(loaded).value(apply(pen.constant(np.eye(n, dtype=np.float32))).value)
    assert found is not None  # it has no inputs
    return found


def _eye(pen: Pen, n: Tensor) -> Tensor:
    """The identity of a size known only when the model runs."""
    square = pen.op("ConstantOfShape", pen.concat([n, n], 0), shape=(None, None))
    return pen.op("EyeLike", square, shape=(None, None))


def along(g: Tensor, operator: Tensor | None, axis: int) -> Tensor:
    """``g @ operator^T`` along an axis: the gradient of what the operator was applied to."""
    if operator is None:
        return g
    operator, last = operator.cast(g.dtype), g.rank - 1
    if axis == last - 1:
        return operator.matmul(g)
    order = [*(a for a in range(g.rank) if a != axis), axis]
    back = sorted(range(g.rank), key=lambda a: order[a])
    rows = g.transpose(*order)
    rows = rows if g.rank > 1 else rows.unsqueeze(0)
    moved = rows.matmul(operator.turned())
    return (moved if g.rank > 1 else moved.squeeze(0)).transpose(*back)
