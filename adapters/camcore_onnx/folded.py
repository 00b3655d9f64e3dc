"""Heads of fused and quantised operators: found in a copy of the model that has them written out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.constants import Constants
from camcore_onnx.heads import Found, find_head
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.shapes import is_one, space_of
from camcore_onnx.unfold import FORMS, unfold
from camcore_onnx.unfold.integers import DIRECT, float_of, is_lone_whole, whole_of
from camcore_onnx.unfold.stating import state

__all__ = ["find_folded_head", "may_be_maps", "state_folded"]

_FLOATS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")


def find_folded_head(output: ir.Value, loaded: Loaded) -> Found | None:
    """The head behind operators that :func:`camcore_onnx.heads.find_head` cannot read.

    Parameters
    ----------
    output : ir.Value
        A graph output with class scores.
    loaded : Loaded
        Its model. A DequantizeLinear is added where integers are pooled: the features are what it gives. Nothing else
        reads that, so all that the model gives stays as it was, and nothing is computed where it is not asked for.

    Returns
    -------
    Found or None
        None where no such operator stands behind the last map, or one has no form in plain operators.
    """
    folded = {n.outputs[0].name for n in _tail(output) if (n.domain, n.op_type) in FORMS and n.op_type not in DIRECT}
    if not folded:
        return None
    copy = replace(loaded, model=loaded.model.clone())
    try:
        unfold(copy.model, [node for node in copy.model.graph if node.outputs[0].name in folded])
    except MethodNotPossible:
        return None
    infer_shapes(copy.model)
    values = {v.name: v for node in copy.model.graph for v in node.outputs}
    found = find_head(values[output.name], Constants(copy))
    return _here(found, loaded)


def _here(found: Found, loaded: Loaded) -> Found | None:
    """What was found in the copy, in the model itself."""
    own = {v.name: v for node in loaded.model.graph for v in node.outputs}
    logits = _counterpart(found.logits, own, loaded.model)
    features = None if found.features is None else _counterpart(found.features, own, loaded.model)
    if logits is None or (found.head is not None and features is None):
        return None
    return replace(found, logits=logits, features=features)


def _counterpart(value: ir.Value, own: dict[str | None, ir.Value], model: ir.Model) -> ir.Value | None:
    """The tensor of that name, or the float that an integer tensor of the model stands for."""
    if value.name in own:
        return float_of(model, own[value.name])
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    whole = own.get(node.inputs[0].name)
    return None if whole is None else float_of(model, whole)


def _tail(output: ir.Value) -> list[ir.Node]:
    """The nodes from the last maps to an output."""
    found: dict[ir.Node, None] = {}
    stack = [output.producer()]
    while stack:
        node = stack.pop()
        if node is None or node in found or _is_map(node.outputs[0]):
            continue
        found[node] = None
        stack += [v.producer() for v in node.inputs if v is not None]
    return list(found)


def _is_map(value: ir.Value) -> bool:
    space = space_of(value)
    return space is not None and not all(map(is_one, space))


def may_be_maps(graph: ir.Graph, batch: int | None, features: ir.Value | None) -> list[ir.Value]:
    """The tensors that may be maps: floats, or integers that stand for some, of a fitting rank, the batch in front.

    What integers stand for is listed under their name, but for the features.
    """
    known = None if features is None else whole_of(features)
    return [
        v
        for node in graph
        for v in node.outputs
        if v.shape is not None
        and len(v.shape) in (3, 4, 5)
        and (not isinstance(v.shape[0], int) or v.shape[0] == batch)
        and (v is features or (v is not known and (is_lone_whole(v) or _is_read_float(v))))
    ]


def _is_read_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.name in _FLOATS and whole_of(value) is value


def state_folded(loaded: Loaded) -> None:
    """State the shapes and types behind operators that onnx does not know, as ONNX Runtime infers them."""
    graph = loaded.model.graph
    if all(node.domain in ("", "ai.onnx") for node in graph):
        return
    unknown = [v for node in graph for v in node.outputs if _is_read(v) and (v.shape is None or v.type is None)]
    with suppress(Exception):  # shapes are a help; what ONNX Runtime refuses it refuses again, and tells, in a run
        state(loaded.model, unknown)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
