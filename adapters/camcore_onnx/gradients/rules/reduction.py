"""Reductions: a sum, a mean or a norm along some axes.

The gradients of sums and means are the same all along the axes, and stay of length one there.
"""

from __future__ import annotations

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor


def _axes(at: Step) -> list[int]:
    """Counted from the front; all where none are named, unless the node asks for none then."""
    named = at.axes()
    if not at.ints("axes", 1):
        return [] if at.attribute("noop_with_empty_axes", 0) else list(range(at.rank()))
    return named


def _kept(at: Step, t: Tensor) -> Tensor:
    """A tensor shaped as the result, with the axes that were reduced of length one."""
    return t if at.attribute("keepdims", 1) else t.unsqueeze(*_axes(at))


@rule("ReduceSum", inputs=(0,))
def total(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` all along."""
    return _kept(at, g)


@rule("ReduceMean", inputs=(0,))
def mean(at: Step, g: Tensor, i: int) -> Tensor:
    """``g / n`` all along, of ``n`` numbers."""
    axes = _axes(at)
    return _kept(at, g / at.x().count(*axes) if axes else g)


@rule("ReduceMax", "ReduceMin", inputs=(0,))
def extreme(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` where the extreme is; equal ones share it evenly, as in ``torch.amax``."""
    y = _kept(at, at.y())
    passed = at.x() < y if at.node.op_type == "ReduceMax" else at.x() > y
    taken = passed.unary("Not").cast(g.dtype)
    return taken * (_kept(at, g) / taken.sum(*_axes(at)))


@rule("ReduceProd", inputs=(0,))
def product(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` times the product of all others; zeros are counted apart, to divide by none."""
    zero = at.x().equals(0)
    count = zero.cast(g.dtype)
    others = zero.where(1, at.x())
    alone = count.equals(count.sum(*_axes(at))).cast(g.dtype)
    return alone * (_kept(at, g) * others.reduce("ReduceProd", *_axes(at))) / others


@rule("ReduceL1", inputs=(0,))
def absolute(at: Step, g: Tensor, i: int) -> Tensor:
    """``g sign x``."""
    return _kept(at, g) * at.x().unary("Sign")


@rule("ReduceL2", inputs=(0,))
def norm(at: Step, g: Tensor, i: int) -> Tensor:
    """``g x / y``; zero where the norm is zero, as in PyTorch."""
    return at.x() * _kept(at, (at.y() > 0).where(g / at.y(), 0))


@rule("ReduceSumSquare", inputs=(0,))
def square(at: Step, g: Tensor, i: int) -> Tensor:
    """``2 g x``."""
    return at.x() * _kept(at, g * 2)


@rule("ReduceLogSum", inputs=(0,))
def log_total(at: Step, g: Tensor, i: int) -> Tensor:
    """``g / sum x``."""
    return _kept(at, g) / at.x().sum(*_axes(at))


@rule("ReduceLogSumExp", inputs=(0,))
def log_total_exp(at: Step, g: Tensor, i: int) -> Tensor:
    """``g exp(x - y)``."""
    return (at.x() - _kept(at, at.y())).unary("Exp") * _kept(at, g)


@rule("CumSum", inputs=(0,), since=11)
def running_total(at: Step, g: Tensor, i: int) -> Tensor:
    """The running sum of ``g`` from the other end."""
    reverse = 1 - at.attribute("reverse", 0)
    return g.pen.op(
        "CumSum",
        g,
        at.x(1),
        shape=g.shape,
        dtype=g.dtype,
        exclusive=at.attribute("exclusive", 0),
        reverse=reverse,
    )
