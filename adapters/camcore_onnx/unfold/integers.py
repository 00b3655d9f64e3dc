"""Which float tensor a quantised one stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from camcore.errors import MethodNotPossible

__all__ = ["DIRECT", "SCALES", "Scale", "dequantized", "domain_of", "is_same", "scale_of"]

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
