"""Operators on integers, as DequantizeLinear, the operator on floats, and QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.unfold.integers import DIRECT, SCALES, Scale, dequantized, domain_of, is_same, scale_of
from camcore_onnx.unfold.site import Operand, Site, form

_PER_AXIS = 13  # the opset since which DequantizeLinear has an axis


@form("QLinearConv", domain="")
@form("QLinearConv")
def conv(site: Site) -> None:
    _refuse_layout(site)
    weight = _weight(site, 3, 0)
    inputs: list[Operand] = [_float(site, 0), weight]
    if site.get(8) is not None:
        inputs.append(_bias(site, 8, _scales(site, 1) * _scales(site, 4)))
    _finish(site, "Conv", *inputs, **site.attributes("channels_last"))


@form("QLinearMatMul", domain="")
@form("QLinearMatMul")
def matmul(site: Site) -> None:
    if _scales(site, 1).size > 1:
        site.refuse("it has a scale for each row; expected one")
    _finish(site, "MatMul", _float(site, 0), _weight(site, 3, -1))


@form("QGemm")
def gemm(site: Site) -> None:
    """``alpha`` multiplies the integers of the bias too."""
    alpha = float(site.attribute("alpha", 1.0))
    inputs: list[Operand] = [_float(site, 0), _weight(site, 3, 0 if site.attribute("transB", 0) else 1)]
    if site.get(6) is not None:
        inputs.append(_bias(site, 6, _scales(site, 1) * _scales(site, 4)))
    attributes = {**site.attributes("alpha"), "alpha": alpha, "beta": alpha}
    if site.get(7) is None:
        site.become("Gemm", *inputs, **attributes)
    else:
        _finish(site, "Gemm", *inputs, **attributes)


@form("QLinearAdd", "QLinearMul")
def arithmetic(site: Site) -> None:
    _finish(site, site.node.op_type.removeprefix("QLinear"), _float(site, 0), _float(site, 3))


@form("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu")
def unary(site: Site) -> None:
    _refuse_layout(site)
    kind = site.node.op_type.removeprefix("QLinear")
    _finish(site, kind, _float(site, 0), **site.attributes("channels_last"))


@form("QLinearSoftmax")
def softmax(site: Site) -> None:
    meant = int(site.attribute("opset", site.opset))
    if (meant < 13) != (site.opset < 13) and site.attribute("axis", -1) != -1:
        site.refuse(f"it is the Softmax of opset {meant} in a model of opset {site.opset}")
    _finish(site, "Softmax", _float(site, 0), **site.attributes("opset"))


@form("QLinearConcat")
def concat(site: Site) -> None:
    parts = [_float(site, i) for i in range(2, len(site.inputs), 3)]
    _finish(site, "Concat", *parts, **site.attributes())


@form("QLinearWhere")
def where(site: Site) -> None:
    _finish(site, "Where", site.need(0), _float(site, 1), _float(site, 4))


@form(*DIRECT, domain="")
def direct(site: Site) -> None:
    """An operator that takes integers as it takes floats is given the floats that its integers stand for."""
    x = site.need(0)
    scale = scale_of(x)
    producer = x.producer()
    if scale is None or producer is None or ir.convenience.get_const_tensor(x) is not None:
        return
    kind, attributes = site.node.op_type, site.attributes()
    rest: list[Operand] = [*site.inputs[1:]]
    domain = domain_of(site.graph, scale)
    if kind == "Pad" and site.get(2) is not None:
        rest[1] = _number(site, site.need(2), scale)
    floats = site.ops(kind, len(site.node.outputs), dequantized(site.model, x), *rest, **attributes)
    for i, value in enumerate(floats[1:], start=1):
        whole = value if kind == "MaxPool" else site.op("QuantizeLinear", value, *scale, domain=domain)
        site.give(i, whole)
    site.become("QuantizeLinear", floats[0], *scale, domain=domain)


def _refuse_layout(site: Site) -> None:
    if site.attribute("channels_last", 0):
        site.refuse(
            "it keeps images in another layout; save the model at a lower level of optimisation "
            "(ORT_ENABLE_EXTENDED), or explain the file that it was made of"
        )


def _scales(site: Site, i: int) -> NDArray[Any]:
    return site.stored(site.get(i), "scale")


def _number(site: Site, value: ir.Value, scale: Scale) -> NDArray[Any]:
    """The float that a stored integer stands for."""
    zero = 0 if scale[1] is None else site.stored(scale[1], "zero point").astype(np.int32)
    whole = site.stored(value, "filling").astype(np.int32) - zero
    return np.asarray((whole * site.stored(scale[0], "scale")).astype(np.float32).reshape(()))


def _float(site: Site, i: int) -> ir.Value:
    """What input ``i`` stands for, whose scale and zero point come behind it."""
    x, scale = site.need(i), (site.need(i + 1), site.get(i + 2))
    known = None if site.array(x) is not None else scale_of(x)
    if known is not None and is_same(known, scale):
        return dequantized(site.model, x)
    return site.op("DequantizeLinear", x, *scale)


def _weight(site: Site, i: int, axis: int) -> ir.Value | NDArray[Any]:
    """The weights of input ``i``, with one scale or with one for each channel along ``axis``."""
    scale, zero = _scales(site, i + 1), site.array(site.get(i + 2))
    if scale.size == 1:
        return _float(site, i)
    if scale.ndim > 1:
        site.refuse(f"its weights have scales of shape {scale.shape}; expected one scale, or one for each channel")
    rank = len(site.shape(site.need(i)))
    if site.opset >= _PER_AXIS:
        return site.op("DequantizeLinear", site.need(i), site.need(i + 1), site.get(i + 2), axis=axis % rank)
    whole = site.stored(site.get(i), "weights").astype(np.int32)
    spread = [-1 if a == axis % rank else 1 for a in range(rank)]
    whole = whole if zero is None else whole - zero.astype(np.int32).reshape(spread if zero.size > 1 else [1] * rank)
    return np.asarray(whole * scale.reshape(spread), np.float32)


def _bias(site: Site, i: int, scale: NDArray[Any]) -> ir.Value | NDArray[Any]:
    """A bias of 32 bits, in steps of the product of both scales."""
    if scale.size == 1:
        return site.op("DequantizeLinear", site.need(i), scale.astype(np.float32).reshape(()))
    if site.opset >= _PER_AXIS:
        return site.op("DequantizeLinear", site.need(i), scale.astype(np.float32), axis=0)
    return np.asarray(site.stored(site.get(i), "bias") * scale, np.float32)


def _finish(site: Site, kind: str, *inputs: Operand, **attributes: Any) -> None:
    """The operator on floats, quantised as the node said."""
    at = SCALES[site.node.op_type]
    scale, zero = site.need(at), site.get(at + 1)
    if zero is None and site.node.outputs[0].dtype not in (ir.DataType.UINT8, None):
        site.refuse("it has no zero point; expected one, of the type of its output")
    site.become("QuantizeLinear", site.op(kind, *inputs, **attributes), scale, *([] if zero is None else [zero]))
