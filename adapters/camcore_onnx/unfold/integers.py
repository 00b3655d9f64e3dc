"""Which float tensor a quantised one stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from camcore.errors import MethodNotPossible

__all__ = [
    "DIRECT",
    "SCALES",
    "Scale",
    "dequantized",
    "domain_of",
    "float_of",
    "is_lone_whole",
    "is_same",
    "read_again",
    "scale_of",
    "whole_of",
]

# Where operators that give integers have their scale; the zero point comes behind it.
SCALES = {
    "QuantizeLinear": 1,
    "QLinearConv": 6,
    "QLinearMatMul": 6,
    "QGemm": 7,
    "QLinearAdd": 6,
    "QLinearMul": 6,
    "QLinearAveragePool": 3,
    "QLinearGlobalAveragePool": 3,
    "QLinearSigmoid": 3,
    "QLinearLeakyRelu": 3,
    "QLinearSoftmax": 3,
    "QLinearConcat": 0,
    "QLinearWhere": 7,
}

# Standard operators that take integers as they take floats, and give integers of the same scale.
_MOVES = "Reshape Flatten Transpose Squeeze Unsqueeze Slice Gather Split Expand Identity DepthToSpace SpaceToDepth"
DIRECT = frozenset(["MaxPool", "Pad", "Resize", *_MOVES.split()])
_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
Scale = tuple[ir.Value, ir.Value | None]


def scale_of(value: ir.Value) -> Scale | None:
    """Scale and zero point of a quantised tensor; None where it is none."""
    node = value.producer()
    if node is not None and node.op_type in SCALES:
        at = SCALES[node.op_type]
        scale = node.inputs[at] if at < len(node.inputs) else None
        return None if scale is None else (scale, node.inputs[at + 1] if at + 1 < len(node.inputs) else None)
    if node is not None and node.op_type in DIRECT and node.inputs[0] is not None:
        return scale_of(node.inputs[0])
    reader = next(_readers(value), None)
    return None if reader is None else (reader.inputs[1], reader.inputs[2] if len(reader.inputs) > 2 else None)  # type: ignore[return-value]  # a scale is no option


def domain_of(graph: ir.Graph, scale: Scale) -> str:
    """Where QuantizeLinear and DequantizeLinear are found: those of 16 bits are ONNX Runtime's own before opset 21."""
    wide = scale[1] is not None and scale[1].dtype in (ir.DataType.INT16, ir.DataType.UINT16)
    return "com.microsoft" if wide and int(graph.opset_imports.get("", 0)) < 21 else ""


def dequantized(model: ir.Model, value: ir.Value) -> ir.Value:
    """The float tensor that a quantised tensor stands for.

    Parameters
    ----------
    model : ir.Model
        Changed where no DequantizeLinear reads ``value``, or several do: in the end one does.
    value : ir.Value
        Of its graph.

    Returns
    -------
    ir.Value
        ``value`` itself where it holds no integers.

    Raises
    ------
    MethodNotPossible
        If it holds integers of which nothing tells the scale.
    """
    found = scale_of(value)
    if found is None:
        if value.dtype in _INTEGERS:
            raise MethodNotPossible(
                f"{value.name!r} holds integers, and nothing tells what they stand for; choose a layer of floats"
            )
        return value
    same = [node for node in _readers(value) if is_same(node.inputs[1:3], found)]
    if not same:
        return _written(model.graph, value, found)
    first = min(same, key=lambda node: not node.outputs[0].is_graph_output())
    _merge(model.graph, first, [node for node in same if node is not first])
    return first.outputs[0]


def float_of(model: ir.Model, value: ir.Value) -> ir.Value:
    """The float tensor that a quantised one stands for: as :func:`dequantized`, but nothing that is there changes.

    ``value`` itself where it holds no integers, or nothing tells what these stand for.
    """
    found = scale_of(value) if value.dtype in _INTEGERS else None
    if found is None:
        return value
    there = next((node.outputs[0] for node in _readers(value) if is_same(node.inputs[1:3], found)), None)
    return _written(model.graph, value, found) if there is None else there


def is_lone_whole(value: ir.Value) -> bool:
    """Whether a tensor holds integers of known scale, and nothing reads what these stand for."""
    found = scale_of(value) if value.dtype in _INTEGERS else None
    same = [node.outputs[0] for node in _readers(value) if found is not None and is_same(node.inputs[1:3], found)]
    return found is not None and not any(v.uses() or v.is_graph_output() for v in same)


def whole_of(value: ir.Value) -> ir.Value:
    """The integers that a float tensor was made of for nobody to read; else the tensor itself."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or value.uses() or value.is_graph_output():
        return value
    return node.inputs[0] or value


def read_again(graph: ir.Graph, value: ir.Value) -> None:
    """Let what reads the integers that a float tensor was made of read that tensor instead, quantised again."""
    node, whole = value.producer(), whole_of(value)
    if node is None or whole is value:
        return
    name = f"{value.name}/quantized"
    output = ir.Value(name=name, shape=value.shape, type=whole.type)
    graph.insert_after(
        node, ir.Node(node.domain, "QuantizeLinear", [value, *node.inputs[1:]], outputs=[output], name=name)
    )
    for use in list(whole.uses()):
        if use.node is not node:
            use.node.replace_input_with(use.idx, output)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    yield from (use.node for use in value.uses() if use.node.op_type == "DequantizeLinear" and use.idx == 0)


def is_same(scale: Sequence[ir.Value | None], other: Scale) -> bool:
    """Whether two pairs of scale and zero point, which may be absent, mean the same."""
    return all(_equal(a, b) for a, b in zip([*scale, None][:2], other, strict=True))


def _equal(a: ir.Value | None, b: ir.Value | None) -> bool:
    if a is b:
        return True
    if a is None or b is None:
        tensor = ir.convenience.get_const_tensor(a or b)  # type: ignore[arg-type]  # one of them is given
        return tensor is not None and not tensor.numpy().any()
    x, y = ir.convenience.get_const_tensor(a), ir.convenience.get_const_tensor(b)
    return x is not None and y is not None and np.array_equal(x.numpy().reshape(-1), y.numpy().reshape(-1))


def _merge(graph: ir.Graph, first: ir.Node, others: list[ir.Node]) -> None:
    """Let all readers read one tensor, so that all their gradients arrive at it."""
    for node in others:
        if not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(first.outputs[0])
            graph.remove(node, safe=True)
    graph.sort()


def _written(graph: ir.Graph, value: ir.Value, scale: Scale) -> ir.Value:
    """A new DequantizeLinear, right behind what makes the integers."""
    name = f"{value.name}/dequantized"
    dtype = scale[0].dtype
    output = ir.Value(name=name, shape=value.shape, type=None if dtype is None else ir.TensorType(dtype))
    inputs = [value, *(s for s in scale if s is not None)]
    producer = value.producer()
    node = ir.Node(domain_of(graph, scale), "DequantizeLinear", inputs, outputs=[output], name=name)
    if producer is not None:
        node.metadata_props.update(producer.metadata_props)
        graph.insert_after(producer, node)
    else:
        graph.insert_before(graph[0], node)
    return output
