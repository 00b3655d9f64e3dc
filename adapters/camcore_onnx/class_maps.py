"""The class maps of the best classes as nodes of the graph: the cheap sum next to its operands, inside the runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from camcore.head import LinearHead
from camcore_onnx.heads import Found

__all__ = ["CLASSES", "COUNT", "MAPS", "add_class_maps", "can_add_class_maps"]

COUNT, CLASSES, MAPS = "camcore/count", "camcore/classes", "camcore/maps"
_TOPK_BY_INPUT = 10  # the opset since which the number of classes is an input
_GATHER_BY_BATCH = 12  # the opset since which GatherND has batch_dims


def can_add_class_maps(found: Found, opset: int) -> bool:
    """Whether the operators that this takes exist in the model's opset, and its features are channels-first."""
    if not isinstance(found.head, LinearHead) or found.channel_axis != 1:
        return False
    return opset >= (_GATHER_BY_BATCH if found.head.is_identity else _TOPK_BY_INPUT)


def add_class_maps(graph: ir.Graph, logits: ir.Value, features: ir.Value, head: LinearHead) -> None:
    """Append ``maps = weight[classes] @ features`` for the best classes; the graph is changed.

    Adds the input ``camcore/count`` (int64, one number: how many classes) and the outputs ``camcore/classes`` (N, T)
    int64 and ``camcore/maps`` (N, T, positions) float32.
    """
    make = _Maker(graph)
    count = ir.Value(name=COUNT, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    graph.inputs.append(count)
    rows = make("Reshape", [make.float(logits), make.constant("row", [0, -1])])
    _, classes = make.two("TopK", [rows, count], names=("best", CLASSES), axis=-1)
    flat = make("Reshape", [make.float(features), make.constant("flat", [0, head.channels, -1])])
    if head.is_identity:
        indices = make("Unsqueeze", *make.axes([classes], [-1]))
        make("GatherND", [flat, indices], name=MAPS, batch_dims=1)
    else:
        weight = make.constant("weight", head.weight.astype(np.float32, copy=False))
        chosen = make("Gather", [weight, classes], axis=0)
        make("MatMul", [chosen, flat], name=MAPS)
    make.output(CLASSES, ir.DataType.INT64, ["N", "T"])
    make.output(MAPS, ir.DataType.FLOAT, ["N", "T", "positions"])


class _Maker:
    """Appends nodes with names of their own to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.values: dict[str, ir.Value] = {}

    def __call__(
        self, op: str, inputs: list[ir.Value], attributes: Any = None, *, name: str = "", **more: Any
    ) -> ir.Value:
        return self._append(op, inputs, [name or f"camcore/{op}{len(self.values)}"], {**(attributes or {}), **more})[0]

    def two(self, op: str, inputs: list[ir.Value], *, names: tuple[str, str], **attributes: Any) -> list[ir.Value]:
        return self._append(op, inputs, [f"camcore/{names[0]}", names[1]], attributes)

    def _append(self, op: str, inputs: list[ir.Value], names: list[str], attributes: dict[str, Any]) -> list[ir.Value]:
        outputs = [ir.Value(name=name) for name in names]
        wrapped = ir.convenience.convert_attributes(attributes)
        self.graph.append(ir.Node("", op, inputs, wrapped, outputs=outputs, name=f"camcore/node{len(self.values)}"))
        self.values |= {v.name or "": v for v in outputs}
        return outputs

    def axes(self, inputs: list[ir.Value], axes: list[int]) -> tuple[list[ir.Value], dict[str, Any]]:
        """Axes are an attribute before opset 13 and an input from then on."""
        if self.graph.opset_imports.get("", 0) < 13:
            return inputs, {"axes": axes}
        return [*inputs, self.constant("axes", axes)], {}

    def constant(self, name: str, values: Any) -> ir.Value:
        array = np.asarray(values)
        value = ir.Value(name=f"camcore/{name}", const_value=ir.tensor(array, name=f"camcore/{name}"))
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def float(self, value: ir.Value) -> ir.Value:
        """``value`` as float32: half precision would lose in the sum, and has no TopK on the CPU."""
        return value if value.dtype == ir.DataType.FLOAT else self("Cast", [value], to=int(ir.DataType.FLOAT))

    def output(self, name: str, dtype: ir.DataType, shape: list[str]) -> None:
        value = self.values[name]
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(value)
