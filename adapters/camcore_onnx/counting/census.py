"""What a graph is made of: its ports, operators and weights, told without reading external weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from camcore_onnx.reading.load import Loaded
from camcore_onnx.shapes import lengths_of

__all__ = ["Census", "Port", "Weights", "take_census"]

_WHOLE = frozenset({"INT32", "INT64", "UINT32", "UINT64", "BOOL", "STRING", "UNDEFINED"})
_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})
_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
_BY_INTEGERS = {
    "operators on integers (QOperator)": ("QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QAttention"),
    "quantised while it runs": (
        *("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
    ),
    "quantised tensors (QDQ)": ("QuantizeLinear",),
    "quantised weights": ("DequantizeLinear", "MatMulNBits", "MatMulBnb4"),
}
_INVENTED = re.compile(r"unk__\d+$")  # names that onnx gives to lengths without one
_CLEAR = 0.9  # a type with this share of the weights' bytes is that of the model


@dataclass(frozen=True)
class Port:
    """An input or an output.

    Attributes
    ----------
    type : str
        ``"float32"``; ``"?"`` where it is not stated.
    shape : tuple of int, str or None
        Names of free lengths as they stand in the file; None without a name. Empty where no shape is stated.
    optional : bool
        Whether it may be left out.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]
    optional: bool = False


@dataclass(frozen=True)
class Weights:
    """Stored numbers.

    Attributes
    ----------
    initializers, constants : int
        How many tensors there are, as initialisers and in Constant nodes.
    bytes, external : int
        Of all of them, and those in files of their own.
    parameters : int
        Numbers in them, without shapes, axes and other whole numbers of 32 or 64 bits that nothing dequantises.
    by_type : dict
        Bytes of the parameters for each type, most first.
    files : dict
        Bytes of each external file.
    """

    initializers: int
    constants: int
    bytes: int
    external: int
    parameters: int
    by_type: Mapping[str, int]
    files: Mapping[str, int]


@dataclass(frozen=True)
class Census:
    """What a graph is made of; functions are written out, and nodes of inner graphs count.

    Attributes
    ----------
    operators : dict
        How many nodes there are of each operator, most first; ``"com.microsoft.FusedConv"`` for other domains.
    precision : str
        ``"float32"``, ``"float16"``, ``"int8, quantised tensors (QDQ)"``, ``"mixed: 60 % float16, 40 % float32"``.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: Mapping[str, int]
    weights: Weights
    precision: str


def take_census(loaded: Loaded) -> Census:
    """Count what a graph is made of.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    """
    model = loaded.model
    operators: Counter[str] = Counter(_operator(n) for n in _nodes(model))
    weights = _weights(loaded)
    return Census(
        tuple(_inputs(model)),
        tuple(_port(v) for v in model.graph.outputs),
        dict(operators.most_common()),
        weights,
        _precision(operators, weights.by_type),
    )


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def type_name(dtype: ir.DataType | None) -> str:
    """``"float32"``, as NumPy has it."""
    return "?" if dtype is None else _NAMES.get(dtype.name, dtype.name.lower())


def _inputs(model: ir.Model) -> Iterator[Port]:
    """Before IR version 4 every initialiser was an input; such are not inputs in any other way."""
    for value in model.graph.inputs:
        optional = value.name in model.graph.initializers
        if not optional or model.ir_version >= 4:
            yield _port(value, optional=optional)


def _port(value: ir.Value, *, optional: bool = False) -> Port:
    lengths = (None if isinstance(n, str) and _INVENTED.match(n) else n for n in lengths_of(value))
    return Port(value.name or "", type_name(value.dtype), tuple(lengths), optional)


def _weights(loaded: Loaded) -> Weights:
    stored = list(_initializers(loaded.model))
    constants = [n.outputs[0] for n in _nodes(loaded.model) if n.op_type == "Constant" and n.outputs]
    by_type: Counter[str] = Counter()
    files: Counter[str] = Counter()
    parameters = 0
    for value, tensor in [*stored, *((v, t) for v in constants if (t := _tensor(v)) is not None)]:
        if _is_parameter(value, tensor):
            parameters += tensor.size
            by_type[type_name(tensor.dtype)] += tensor.nbytes
        if isinstance(tensor, ir.ExternalTensor):
            files[str(tensor.location)] += tensor.nbytes
    total = sum(t.nbytes for _, t in stored)
    types = dict(by_type.most_common())
    return Weights(len(stored), len(constants), total, sum(files.values()), parameters, types, dict(files))


def _initializers(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    node = value.producer()
    attribute = None if node is None else node.attributes.get("value")
    tensor: ir.TensorProtocol | None = value.const_value
    if tensor is None and attribute is not None and attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
    return tensor


def _is_parameter(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    """Biases of quantised layers are whole numbers of 32 bits, as shapes are not."""
    if tensor.dtype.name not in _WHOLE:
        return True
    if tensor.dtype.name != "INT32":
        return False
    return any(use.node.op_type.startswith(("DequantizeLinear", "QLinear", "QGemm")) for use in value.uses())


def _precision(operators: Mapping[str, int], by_type: Mapping[str, int]) -> str:
    """The type of the weights, or the types and their shares, and how integers come in."""
    whole = sum(by_type.values())
    shares = {name: size / whole for name, size in by_type.items()} if whole else {}
    names = {name.rpartition(".")[2] for name in operators}
    form = next((form for form, known in _BY_INTEGERS.items() if not names.isdisjoint(known)), "")
    main = next(iter(shares), "")
    if not shares:
        text = "no weights"
    elif shares[main] >= _CLEAR:
        text = main
    else:
        text = "mixed: " + ", ".join(f"{share:.0%} {name}" for name, share in shares.items() if share >= 0.005)
    return f"{text}, {form}" if form else text
