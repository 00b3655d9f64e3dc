"""Edits of a graph. Each takes a model and gives a new one; the original is not changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from camcore.errors import InputError
from camcore_onnx.layers import find_layer
from camcore_onnx.reading.load import Loaded, infer_shapes, load

__all__ = ["add_outputs", "copy_outputs", "expose_features", "free_copy", "remove_unread"]

_FREE_CONSTANTS = 4  # the version of the format since which a constant need not be an input as well


def expose_features(model: Any, layers: str | Sequence[str], *, names: Sequence[str] | None = None) -> Any:
    """Add the tensors of some layers as outputs, behind the existing ones.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
        Not changed.
    layers : str or sequence of str
        Tensor names, node names or PyTorch module paths.
    names : sequence of str, optional
        What the new outputs are called; the tensors' own names where absent.

    Returns
    -------
    onnx.ModelProto
        Weights in external files stay there.

    Raises
    ------
    InputError
        For an unknown layer or a name that is taken.
    """
    loaded = load(model)
    infer_shapes(loaded.model)  # an output must state its type
    wanted = [layers] if isinstance(layers, str) else list(layers)
    values = {find_layer(loaded.model.graph, layer): layer for layer in wanted}
    titles = [v.name or "" for v in values] if names is None else list(names)
    if len(titles) != len(values):
        raise InputError(f"{len(titles)} names for {len(values)} layers; give one a layer")
    if len(set(titles)) < len(titles):
        raise InputError(f"the names {', '.join(titles)} are not all different; give each layer its own")
    return ir.to_proto(add_outputs(loaded, dict(zip(titles, values, strict=True))))


def add_outputs(loaded: Loaded, outputs: Mapping[str, ir.Value]) -> ir.Model:
    """A copy of the model that also returns ``outputs`` (name -> value of the original), after its own outputs.

    A value that is asked for under its own name becomes an output as it is; under another name through an Identity,
    which also keeps runtimes from losing a tensor that is both an output and read inside.
    """
    copy = loaded.model.clone()
    by_name = {v.name: v for node in copy.graph for v in node.outputs if v.name}
    taken = set(by_name) | {v.name for v in copy.graph.inputs} | set(copy.graph.initializers)
    for name, original in outputs.items():
        if original.name not in by_name:
            raise InputError(f"the model gives {original.name!r} as it came or was stored; there is nothing to explain")
        value = by_name[original.name]
        if value.name == name:
            if not value.is_graph_output():
                copy.graph.outputs.append(value)
            continue
        if name in taken:
            raise InputError(f"the model already has a tensor called {name!r}; choose another name")
        copy.graph.outputs.append(_identity(copy.graph, value, name))
    return copy


def _identity(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    output = ir.Value(name=name, shape=value.shape, type=value.type)
    graph.append(ir.Node("", "Identity", [value], outputs=[output], name=f"camcore/{name}"))
    return output


def copy_outputs(model: ir.Model) -> ir.Model:
    """A copy of the model whose outputs are read by no node: those that were are copied by an ``Identity``.

    TensorRT engines have lost tensors that are both an output and read inside. Names and order stay.
    """
    copy = model.clone()
    for place, value in enumerate(copy.graph.outputs):
        if value.producer() is None or not value.uses():
            continue
        name, value.name = value.name or "", f"camcore/{value.name}/inside"
        output = ir.Value(name=name, shape=value.shape, type=value.type)
        copy.graph.append(ir.Node("", "Identity", [value], outputs=[output], name=f"camcore/{name}/copy"))
        copy.graph.outputs[place] = output
    return copy


def free_copy(model: ir.Model) -> ir.Model:
    """A copy that constants can be added to: before version 4 of the format each of them must be an input as well."""
    copy = model.clone()
    if copy.ir_version < _FREE_CONSTANTS:
        copy.ir_version = _FREE_CONSTANTS
        kept = [v for v in copy.graph.inputs if v.name not in copy.graph.initializers]
        copy.graph.inputs[:] = kept
    return copy


def remove_unread(graph: ir.Graph, ours: tuple[str, ...]) -> None:
    """Remove nodes and constants that nothing reads, of names that begin with ``ours``; runtimes would compute them."""
    for node in reversed(list(graph)):
        written = (node.name or "").startswith(ours)
        if written and not any(v.is_graph_output() or v.uses() for v in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if name.startswith(ours) and not value.uses() and not value.is_graph_input():
            del graph.initializers[name]
