"""Layer normalisation, with a residual sum in front of it and without a mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from camcore_onnx.unfold.site import Operand, Site, form

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@form("SkipLayerNormalization")
def skip_layer_normalization(site: Site) -> None:
    """``LayerNormalization(input + skip + bias) gamma + beta``; output 3 is the sum."""
    _refuse_statistics(site)
    x = _sum(site, 4)
    gamma, beta, epsilon = site.need(2), site.get(3), float(site.attribute("epsilon", 1e-12))
    if site.opset >= 17:
        site.become("LayerNormalization", x, gamma, *([] if beta is None else [beta]), axis=-1, epsilon=epsilon)
    else:
        _normalize(site, x, [-1], epsilon, gamma, beta)


@form("LayerNormalization", domain="")
def layer_normalization(site: Site) -> None:
    """ONNX Runtime writes it into models of older opsets too, in which ONNX has no such operator."""
    if site.opset < 17:
        site.refuse_outputs()
        x, epsilon = site.need(0), float(site.attribute("epsilon", 1e-5))
        _normalize(site, x, _axes(site, x), epsilon, site.need(1), site.get(2))


def _normalize(
    site: Site, x: ir.Value, axes: list[int], epsilon: float, gamma: ir.Value, beta: ir.Value | None
) -> None:
    """``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) gamma + beta``."""
    half = site.dtype(gamma) if site.dtype(gamma) in _HALVES else None
    wide = x if half is None else site.op("Cast", x, to=1)
    away = site.op("Sub", wide, _mean(site, wide, axes))
    normal = site.op("Mul", away, _inverse_root(site, away, axes, epsilon))
    _scale(site, normal, gamma, beta, half)


@form("SkipSimplifiedLayerNormalization")
def skip_rms_normalization(site: Site) -> None:
    """``x / sqrt(mean(x^2) + eps) gamma`` of ``x = input + skip + bias``; output 3 is the sum."""
    _refuse_statistics(site)
    _rms(site, _sum(site, 3), site.need(2), [-1], 1e-12)


@form("SimplifiedLayerNormalization", domain="")
@form("SimplifiedLayerNormalization")
def rms_normalization(site: Site) -> None:
    """``x / sqrt(mean(x^2) + eps) scale``."""
    site.refuse_outputs()
    x = site.need(0)
    _rms(site, x, site.need(1), _axes(site, x), 1e-5)


def _axes(site: Site, x: ir.Value) -> list[int]:
    """All from ``axis`` on."""
    axis = int(site.attribute("axis", -1))
    return [-1] if axis == -1 else list(range(axis % len(site.shape(x)), len(site.shape(x))))


def _rms(site: Site, x: ir.Value, gamma: ir.Value, axes: list[int], epsilon: float) -> None:
    half = site.dtype(gamma) if site.dtype(gamma) in _HALVES else None
    wide = x if half is None else site.op("Cast", x, to=1)
    normal = site.op("Mul", wide, _inverse_root(site, wide, axes, float(site.attribute("epsilon", epsilon))))
    _scale(site, normal, gamma, None, half)


def _refuse_statistics(site: Site) -> None:
    for value in site.node.outputs[1:3]:
        if value.uses() or value.is_graph_output():
            site.refuse(f"its statistics {value.name!r} are read, which is not supported")


def _sum(site: Site, bias: int) -> ir.Value:
    """Input, skip connection and bias; also given as output 3."""
    x = site.op("Add", site.need(0), site.need(1))
    extra = site.get(bias)
    x = x if extra is None else site.op("Add", x, extra)
    site.give(3, x)
    return x


def _mean(site: Site, x: ir.Value, axes: list[int]) -> ir.Value:
    inputs: list[Operand] = [np.array(axes, np.int64)] if site.opset >= 18 else []
    attributes: dict[str, Any] = {} if site.opset >= 18 else {"axes": axes}
    return site.op("ReduceMean", x, *inputs, keepdims=1, **attributes)


def _inverse_root(site: Site, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """``1 / sqrt(mean(x^2) + eps)``."""
    power = site.op("Add", _mean(site, site.op("Mul", x, x), axes), np.array(epsilon, np.float32))
    return site.op("Reciprocal", site.op("Sqrt", power))


def _scale(site: Site, x: ir.Value, gamma: ir.Value, beta: ir.Value | None, half: ir.DataType | None) -> None:
    x = x if half is None else site.op("Cast", x, to=int(half))
    if beta is None:
        site.become("Mul", x, gamma)
    else:
        site.become("Add", site.op("Mul", x, gamma), beta)
