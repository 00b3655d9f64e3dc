"""Activation functions. What tells its slope by its output is read there: it stays fused with the layer before."""

from __future__ import annotations

import math

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule, slope
from camcore_onnx.gradients.tensor import Tensor


def _positive(at: Step, *factors: float) -> Tensor:
    """Where the input is positive: so is the output, unless a factor of it is negative."""
    return (at.x() if min(factors, default=0) < 0 else at.y()) > 0


def leaky(at: Step) -> Tensor:
    """1 where ``x > 0``, else ``alpha``."""
    alpha = at.attribute("alpha", 0.01)
    return _positive(at, alpha).where(at.pen.tensor(1.0, at.y().dtype), alpha)


def elu(at: Step) -> Tensor:
    """``y = alpha (exp x - 1)`` below zero: ``y + alpha``."""
    alpha = at.attribute("alpha", 1.0)
    return _positive(at, alpha).where(1, at.y() + alpha)


def selu(at: Step) -> Tensor:
    """``y = gamma x`` above zero, below it ``gamma alpha (exp x - 1)``: ``gamma`` and ``y + gamma alpha``."""
    alpha, gamma = at.attribute("alpha", 1.6732632423543772), at.attribute("gamma", 1.0507009873554805)
    return _positive(at, alpha, gamma).where(gamma, at.y() + gamma * alpha)


def celu(at: Step) -> Tensor:
    """``y = alpha (exp(x / alpha) - 1)`` below zero: ``y / alpha + 1``."""
    return _positive(at).where(1, at.y() / at.attribute("alpha", 1.0) + 1)


def hard_sigmoid(at: Step) -> Tensor:
    """``alpha`` strictly between 0 and 1."""
    return at.y().above() * at.y().below(1.0) * at.attribute("alpha", 0.2)


def hard_swish(at: Step) -> Tensor:
    """``y = x h(x)``: ``h + x / 6`` where ``|x| < 3``, else ``h``, which is 0 or 1."""
    hard = at.x().unary("HardSigmoid", alpha=1 / 6, beta=0.5)
    return hard + at.x().unary("Abs").below(3.0) * (at.x() * (1 / 6))


def swish(at: Step) -> Tensor:
    """``y = x s`` with ``s = sigmoid(alpha x)``: ``s + alpha y (1 - s)``."""
    alpha = at.attribute("alpha", 1.0)
    sigmoid = (at.x() * alpha).unary("Sigmoid")
    return sigmoid + at.y() * (1 - sigmoid) * alpha


def mish(at: Step) -> Tensor:
    """``y = x t`` with ``t = tanh(softplus x)``: ``t + x (1 - t²) sigmoid x``."""
    tanh = at.x().unary("Softplus").unary("Tanh")
    return tanh + at.x() * (1 - tanh * tanh) * at.x().unary("Sigmoid")


def gelu(at: Step) -> Tensor:
    """``y = x Φ(x)``: ``Φ + x φ``, and the like where ``Φ`` is made of a tanh."""
    x = at.x()
    if at.attribute("approximate", "none") == "tanh":
        return _gelu_by_tanh(x)
    density = (x * x * -0.5).unary("Exp") * (1 / math.sqrt(2 * math.pi))
    return (x * math.sqrt(0.5)).unary("Erf") * 0.5 + 0.5 + x * density


def _gelu_by_tanh(x: Tensor) -> Tensor:
    """``Φ = (1 + tanh u) / 2`` with ``u = √(2/π) (x + 0.044715 x³)``."""
    scale, square = math.sqrt(2 / math.pi), x * x
    tanh = (x * (square * (0.044715 * scale) + scale)).unary("Tanh")
    inner = square * (3 * 0.044715 * scale) + scale
    return (tanh + 1 + x * (1 - tanh * tanh) * inner) * 0.5


def softsign(at: Step) -> Tensor:
    """``1 / (1 + |x|)²``."""
    root = 1 / (at.x().unary("Abs") + 1)
    return root * root


slope("Relu", lambda at: at.y().above())
slope("ThresholdedRelu", lambda at: at.x().above(at.attribute("alpha", 1.0)), since=10)
slope("Shrink", lambda at: at.x().unary("Abs").above(at.attribute("lambd", 0.5)))
slope("LeakyRelu", leaky)
slope("Elu", elu)
slope("Selu", selu)
slope("Celu", celu, since=12)
slope("Sigmoid", lambda at: at.y() * (1 - at.y()))
slope("HardSigmoid", hard_sigmoid)
slope("HardSwish", hard_swish, since=14)
slope("Swish", swish, since=24)
slope("Mish", mish, since=18)
slope("Gelu", gelu, since=20)
slope("Tanh", lambda at: 1 - at.y() * at.y())
slope("Softplus", lambda at: at.x().unary("Sigmoid"))
slope("Softsign", softsign)


@rule("PRelu", elementwise=True)
def prelu(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` where ``x > 0``, else ``slope g``; the slope itself gets ``x g`` where ``x <= 0``."""
    positive = at.x() > 0
    return g * (positive.where(0, at.x()) if i else positive.where(1, at.x(1)))
