"""Arithmetic, operand by operand; what decides between operands passes the gradient to the one it took."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule, slope
from camcore_onnx.gradients.tensor import Tensor

_LARGEST = float(np.finfo(np.float32).max)  # what opset 6 writes where a bound of Clip is absent

slope("Exp", lambda at: at.y())
slope("Log", lambda at: 1 / at.x())
slope("Sqrt", lambda at: 0.5 / at.y())
slope("Reciprocal", lambda at: -(at.y() * at.y()))
slope("Abs", lambda at: at.x().unary("Sign"))
slope("Erf", lambda at: (-(at.x() * at.x())).unary("Exp") * (2 / math.sqrt(math.pi)))
slope("Sin", lambda at: at.x().unary("Cos"))
slope("Cos", lambda at: -at.x().unary("Sin"))
slope("Tan", lambda at: 1 + at.y() * at.y())
slope("Asin", lambda at: 1 / (1 - at.x() * at.x()).unary("Sqrt"))
slope("Acos", lambda at: -1 / (1 - at.x() * at.x()).unary("Sqrt"))
slope("Atan", lambda at: 1 / (1 + at.x() * at.x()))
slope("Sinh", lambda at: at.x().unary("Cosh"))
slope("Cosh", lambda at: at.x().unary("Sinh"))
slope("Asinh", lambda at: 1 / (1 + at.x() * at.x()).unary("Sqrt"))
slope("Acosh", lambda at: 1 / (at.x() * at.x() - 1).unary("Sqrt"))
slope("Atanh", lambda at: 1 / (1 - at.x() * at.x()))


@rule("Add", "Sum", elementwise=True)
def add(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` for each operand."""
    return g


@rule("Mean", elementwise=True)
def mean(at: Step, g: Tensor, i: int) -> Tensor:
    """``g / n`` for each of ``n`` operands."""
    return g * (1 / len(at.node.inputs))


@rule("Sub", elementwise=True)
def subtract(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` and ``-g``."""
    return -g if i else g


@rule("Neg", elementwise=True)
def negate(at: Step, g: Tensor, i: int) -> Tensor:
    """``-g``."""
    return -g


@rule("Mul", elementwise=True)
def multiply(at: Step, g: Tensor, i: int) -> Tensor | None:
    """``g`` times the other operand; both shares at once where one is the sigmoid of the other (SiLU)."""
    if _is_gate(at, i):
        return None
    if _is_gate(at, 1 - i):
        return g * ((1 - at.y()) * at.x(1 - i) + at.y())
    return g * at.x(1 - i)


def _is_gate(at: Step, i: int) -> bool:
    """Whether an operand is the sigmoid of the other one, and no layer itself."""
    node = at.value(i).producer()
    gate = node is not None and node.op_type == "Sigmoid" and node.inputs[0] is at.value(1 - i)
    return gate and at.value(i) not in at.wanted


@rule("Div", elementwise=True)
def divide(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = a / b``: ``g / b`` and ``-g / b · y``."""
    quotient = g / at.x(1)
    return -(quotient * at.y()) if i else quotient


@rule("Mod", elementwise=True, since=10)
def modulo(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = a - k b`` with a whole ``k``: ``g`` and ``-k g``."""
    return g * ((at.y() - at.x(0)) / at.x(1)) if i else g


@rule("Pow", elementwise=True)
def power(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = a^b``: ``g b a^(b-1)``, zero where ``b = 0``, and ``g y log a``, zero where ``a = 0 <= b``."""
    base, exponent = at.x(0), at.x(1).cast(g.dtype)
    if i:
        settled = base.equals(0) & (exponent >= 0)
        return g * settled.where(0, at.y() * base.unary("Log"))
    fixed = at.constant(1)
    if fixed is not None and fixed.size == 1:
        return _power(at, g, float(fixed.item()))
    return g * exponent.equals(0).where(0, exponent * base ** (exponent - 1))


def _power(at: Step, g: Tensor, exponent: float) -> Tensor:
    """The gradient of the base where the exponent is one number."""
    if exponent in (0, 1):
        return g * exponent
    if exponent == 0.5:
        return g * (0.5 / at.y())
    return g * (at.x(0) * 2 if exponent == 2 else at.x(0) ** (exponent - 1) * exponent)


@rule("Max", "Min", elementwise=True)
def extreme(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` for the operand taken; equal ones share it evenly, as in ``torch.maximum``."""
    taken = list(_taken(at))
    if len(taken) == 1:
        return g
    return g * (taken[i] / sum(taken[1:], taken[0]))


def _taken(at: Step) -> Iterator[Tensor]:
    """1 where an operand is the result, else 0, for each operand."""
    for j in range(len(at.node.inputs)):
        passed = at.x(j) < at.y() if at.node.op_type == "Max" else at.x(j) > at.y()
        yield passed.unary("Not").cast(at.y().dtype)


@rule("Clip", elementwise=True)
def clip(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` strictly between fixed bounds, read off the output.

    An input equal to a fixed bound passes nothing, as in ``torch.nn.functional.hardtanh``: the output does not tell it
    from one beyond, and reading the input would cost the runtime its fusion with the convolution before. Computed
    bounds are differentiated as the operands of ``Max`` and ``Min``.
    """
    if any(at.has(j) and at.constant(j) is None for j in (1, 2)):
        return _clamp(at, g, i)
    low, high = (_bound(at, j, name) for j, name in ((1, "min"), (2, "max")))
    inside = [at.y().above(low)] if low is not None else []
    inside += [at.y().below(high)] if high is not None else []
    return g if not inside else g * (inside[0] * inside[1] if inside[1:] else inside[0])


def _bound(at: Step, i: int, name: str) -> float | None:
    """A fixed bound; None where there is none."""
    given = at.constant(i)
    bound = at.attribute(name) if given is None else float(given.item())
    return None if bound is None or abs(bound) >= _LARGEST else float(bound)


def _clamp(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = min(max(x, low), high)``, where equal ones share ``g`` evenly."""
    x = raised = at.x(0)
    if at.has(1):
        raised = at.pen.op("Max", x, at.x(1), shape=x.shape, dtype=x.dtype)
    if i == 2:
        return g * _over(raised, at.x(2))
    g = g * _over(at.x(2), raised) if at.has(2) else g
    if i == 1:
        return g * _over(at.x(1), x)
    return g * _over(x, at.x(1)) if at.has(1) else g


def _over(a: Tensor, b: Tensor) -> Tensor:
    """1 where ``a > b``, a half where they are equal, else 0."""
    return ((a > b).cast(a.dtype) + (a >= b).cast(a.dtype)) * 0.5


@rule("Where", inputs=(1, 2), elementwise=True)
def where(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` where the condition takes this operand, else zero."""
    return at.x(0).where(g, 0) if i == 1 else at.x(0).where(0, g)
