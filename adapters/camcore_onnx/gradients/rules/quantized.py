"""Quantised tensors: the straight-through estimator, in which integers carry the gradient of what they stand for.

A quantised tensor only ever stands for the float tensor that DequantizeLinear makes of it, so its gradient is that of
this float tensor. Rounding is passed as if it were not there; values that were cut off at an end of the range are not:
a ReLU or ReLU6 that was folded into the range has the gradient of a ReLU or ReLU6.
"""

from __future__ import annotations

import onnx_ir as ir

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import FLAT, rule
from camcore_onnx.gradients.tensor import Tensor

_STRAIGHT = "a straight-through estimate: rounding to integers is passed as if it were not there"
_MICROSOFT = "com.microsoft"
_RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-(1 << 15), (1 << 15) - 1),
    ir.DataType.UINT16: (0, (1 << 16) - 1),
}
_BEHIND_SCORES = FLAT | {"Softmax", "LogSoftmax", "Sigmoid"}
_ARITHMETIC = ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "Cast")


@rule("DequantizeLinear", inputs=(0,), flat=(1, 2), elementwise=True, approximate=_STRAIGHT)
@rule("DequantizeLinear", domain=_MICROSOFT, inputs=(0,), flat=(1, 2), elementwise=True, approximate=_STRAIGHT)
def dequantize(at: Step, g: Tensor, i: int) -> Tensor:
    """``g``, given to the integers; the range is taken as fixed."""
    _range(at, at.value())
    maker = at.value(1).producer()
    if at.constant(1) is None and (maker is None or maker.op_type != "DynamicQuantizeLinear"):
        at.refuse("its scale depends on the image")
    return g


@rule("QuantizeLinear", inputs=(0,), elementwise=True, approximate=_STRAIGHT)
@rule("QuantizeLinear", domain=_MICROSOFT, inputs=(0,), elementwise=True, approximate=_STRAIGHT)
def quantize(at: Step, g: Tensor, i: int) -> Tensor:
    """``g [min < y < max]``, from the integers ``y``; scores that are rounded only to be given out pass ``g``."""
    low, high = _range(at, at.node.outputs[0])
    _check_readers(at)
    if _is_given_out(at.node.outputs[0]):
        return g
    y = at.y()
    return ((y > low) & (y < high)).where(g, 0.0)


@rule("DynamicQuantizeLinear", inputs=(0,), elementwise=True, approximate=_STRAIGHT)
def quantize_dynamically(at: Step, g: Tensor, i: int) -> Tensor:
    """``g``: the range is that of the values, which is taken as fixed."""
    if at.gradients[0] is None:
        at.refuse("the scores depend on its scale alone")
    _check_readers(at)
    return g


def _range(at: Step, integers: ir.Value) -> tuple[int, int]:
    """The smallest and the largest integer of a type."""
    dtype = at.pen.facts.dtype(integers)
    if dtype not in _RANGES:
        at.refuse(f"its integers are of type {dtype.name}; expected {', '.join(t.name for t in _RANGES)}")
    return _RANGES[dtype]


def _check_readers(at: Step) -> None:
    """Integers that are multiplied as such stand for something else there."""
    for use in at.node.outputs[0].uses():
        if use.node.op_type in _ARITHMETIC:
            at.refuse(
                f"{use.node.op_type} {use.node.name!r} computes with its integers; quantise the model in the form with "
                "QuantizeLinear and DequantizeLinear, or explain the float model"
            )


def _is_given_out(integers: ir.Value) -> bool:
    """Whether integers stand for the scores themselves: cut off there, a score would have no gradient at all."""
    floats = [v for use in integers.uses() for v in use.node.outputs if use.node.op_type == "DequantizeLinear"]
    readers = [use.node.op_type for v in floats for use in v.uses()]
    return any(v.is_graph_output() for v in floats) and all(op in _BEHIND_SCORES for op in readers)
