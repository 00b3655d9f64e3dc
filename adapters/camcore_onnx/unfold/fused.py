"""Operators that ONNX Runtime fuses: an activation, a bias or a transposition behind or in front of another one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from camcore_onnx.unfold.site import Operand, Site, form

Part = tuple[str, list[Operand], dict[str, Any]]  # operator, inputs, attributes
_PARAMETERS: Mapping[str, tuple[str, ...]] = {  # of activations, in the order of activation_params
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
    "Clip": ("min", "max"),
}


@form("FusedConv")
def conv(site: Site) -> None:
    """``activation(Conv(X, W, B) + Z)``."""
    activation = site.attribute("activation", "")
    parameters = [float(p) for p in site.attribute("activation_params", [])]
    attributes = site.attributes("activation", "activation_params")
    parts: list[Part] = [("Conv", [*site.inputs[:3]], attributes)]
    if site.get(3) is not None:
        parts.append(("Add", [site.get(3)], {}))
    if activation:
        parts.append(_activation(site, activation, dict(zip(_names(site, activation), parameters, strict=False))))
    _chain(site, parts)


@form("FusedGemm")
def gemm(site: Site) -> None:
    """``activation(Gemm(A, B, C))``."""
    activation = site.attribute("activation", "")
    own = {n: a for n, a in site.attributes().items() if n.startswith(("activation", "leaky_relu"))}
    parts: list[Part] = [("Gemm", [*site.inputs], site.attributes(*own))]
    if activation:
        given = {name: site.attribute(f"activation_{name}") for name in _names(site, activation)}
        given = {n: p for n, p in given.items() if p is not None}
        if "leaky_relu_alpha" in own:
            given["alpha"] = site.attribute("leaky_relu_alpha")
        parts.append(_activation(site, activation, given))
    _chain(site, parts)


def _names(site: Site, activation: str) -> tuple[str, ...]:
    if activation not in _PARAMETERS:
        site.refuse(f"its activation is {activation!r}; expected one of {', '.join(_PARAMETERS)}")
    return _PARAMETERS[activation]


def _activation(site: Site, kind: str, given: Mapping[str, float]) -> Part:
    if kind == "Clip" and site.opset >= 11:
        bounds = [site.number(given[n], site.need(1)) if n in given else None for n in ("min", "max")]
        return kind, [*bounds], {}
    return kind, [], dict(given)


def _chain(site: Site, parts: list[Part]) -> None:
    """Each part reads the one before it, and then its own inputs."""
    before: list[Operand] = []
    for kind, inputs, attributes in parts[:-1]:
        before = [site.op(kind, *before, *inputs, **attributes)]
    kind, inputs, attributes = parts[-1]
    site.become(kind, *before, *inputs, **attributes)


@form("FusedMatMul", "TransposeMatMul")
def matmul(site: Site) -> None:
    """``alpha A' B'`` of transposed operands."""
    a, b = (_transposed(site, i, letter) for i, letter in enumerate("AB"))
    alpha = float(site.attribute("alpha", 1.0))
    if alpha == 1:
        site.become("MatMul", a, b)
    else:
        site.become("Mul", site.op("MatMul", a, b), site.number(alpha, site.need(0)))


def _transposed(site: Site, i: int, letter: str) -> ir.Value:
    value, last = site.need(i), bool(site.attribute(f"trans{letter}", 0))
    batch = bool(site.attribute(f"transBatch{letter}", 0))
    if not last and not batch:
        return value
    rank = len(site.shape(value))
    if rank < 2:
        site.refuse(f"it transposes {value.name!r}, which has {rank} axes; expected at least 2")
    order = list(range(rank))
    if batch:
        order = [*order[1:-1], 0, order[-1]]
    if last:
        order[-2:] = order[:-3:-1]
    return site.op("Transpose", value, perm=order)


@form("Gelu", "BiasGelu")
def gelu(site: Site) -> None:
    """``x Phi(x)``, of ``x`` plus a bias."""
    x = _biased(site)
    if site.opset >= 20:
        site.become("Gelu", x)
        return
    erf = site.op("Erf", site.op("Mul", x, site.number(math.sqrt(0.5), site.need(0))))
    _half_of(site, x, erf)


@form("FastGelu")
def fast_gelu(site: Site) -> None:
    """``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``, of ``x`` plus a bias."""
    x = _biased(site)
    if site.opset >= 20:
        site.become("Gelu", x, approximate="tanh")
        return
    cube = site.op("Mul", site.op("Mul", x, x), x)
    inner = site.op("Add", x, site.op("Mul", cube, site.number(0.044715, site.need(0))))
    _half_of(site, x, site.op("Tanh", site.op("Mul", inner, site.number(math.sqrt(2 / math.pi), site.need(0)))))


def _biased(site: Site) -> ir.Value:
    bias = site.get(1)
    return site.need(0) if bias is None else site.op("Add", site.need(0), bias)


def _half_of(site: Site, x: ir.Value, part: ir.Value) -> None:
    """``x (1 + part) / 2``."""
    whole = site.op("Mul", x, site.op("Add", part, site.number(1.0, site.need(0))))
    site.become("Mul", whole, site.number(0.5, site.need(0)))


@form("QuickGelu")
def quick_gelu(site: Site) -> None:
    """``x sigmoid(alpha x)``: SiLU where alpha is one."""
    x, alpha = site.need(0), float(site.attribute("alpha", 1.702))
    inner = x if alpha == 1 else site.op("Mul", x, site.number(alpha, x))
    site.become("Mul", x, site.op("Sigmoid", inner))


_LAYOUT = (
    "it keeps images in another layout; save the model at a lower level of optimisation (ORT_ENABLE_EXTENDED), or "
    "explain the file that it was made of"
)
_DYNAMIC = (
    "it computes with integers; quantise the model statically, in the form with QuantizeLinear and DequantizeLinear, "
    "or explain the float model"
)


@form("NhwcMaxPool", "NhwcConv", "NhwcFusedConv")
def other_layout(site: Site) -> None:
    site.refuse(_LAYOUT)


@form("MatMulInteger", "ConvInteger", domain="")
@form("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "QMoE", "QOrderedMatMul", "QOrderedAttention")
def integer_arithmetic(site: Site) -> None:
    site.refuse(_DYNAMIC)
