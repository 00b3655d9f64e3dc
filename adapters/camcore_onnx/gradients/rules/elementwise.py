"""Arithmetic, operand by operand."""

from __future__ import annotations

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule, slope
from camcore_onnx.gradients.tensor import Tensor

slope("Neg", lambda at: -1.0)
slope("Exp", lambda at: at.y())
slope("Log", lambda at: 1 / at.x())
slope("Sqrt", lambda at: 0.5 / at.y())
slope("Reciprocal", lambda at: -(at.y() * at.y()))


@rule("Add", "Sum", elementwise=True)
def add(at: Step, g: Tensor, i: int) -> Tensor:
    return g


@rule("Sub", elementwise=True)
def subtract(at: Step, g: Tensor, i: int) -> Tensor:
    return -g if i else g


@rule("Mul", elementwise=True)
def multiply(at: Step, g: Tensor, i: int) -> Tensor:
    return g * at.x(1 - i)


@rule("Div", elementwise=True)
def divide(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = a / b``: ``g / b`` and ``-g y / b``."""
    return g / at.x(1) if i == 0 else -(g * at.y() / at.x(1))
