"""The names a user may give a layer: tensor, node, or the path of a PyTorch module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import onnx_ir as ir

from camcore.errors import InputError, suggest

__all__ = ["find_layer", "is_inner", "module_path", "module_paths", "operator_of"]

_SCOPES = "pkg.torch.onnx.name_scopes"  # written by torch.onnx.export(dynamo=True)
_REPEATED = re.compile(r"_\d+$")


def find_layer(graph: ir.Graph, name: str) -> ir.Value:
    """The tensor that ``name`` means.

    Parameters
    ----------
    graph : ir.Graph
    name : str
        In this order: the path of a PyTorch module, which means the tensor that the module returns; the name of a
        tensor; of a node (its first output). Both exporters leave the paths in the graph: the TorchScript one in the
        names of nodes, the other one in their metadata.

    Raises
    ------
    InputError
        With the nearest names.
    """
    nodes = list(graph)
    returned = _returned(nodes, name)
    if returned is not None:
        return returned
    tensors = (v for node in nodes for v in node.outputs if v.name == name)
    named = (node.outputs[0] for node in nodes if name and node.name == name)
    value = next(tensors, None) or next(named, None)
    if value is not None:
        return value
    known = [
        *module_paths(nodes),
        *(v.name for n in nodes for v in n.outputs if v.name),
        *(n.name for n in nodes if n.name),
    ]
    raise InputError(f"no layer is called {name!r}: no tensor, node or PyTorch module. {suggest(name, known)}")


def module_paths(nodes: list[ir.Node]) -> list[str]:
    """All module paths that the graph's nodes come from, outer ones first."""
    found: dict[str, None] = {}
    for node in nodes:
        parts = module_path(node).split(".")
        for i in range(len(parts)):
            found.setdefault(".".join(parts[: i + 1]))
    return [path for path in found if path]


def module_path(node: ir.Node) -> str:
    """The PyTorch module that a node comes from, ``"layer4.1.relu"``; empty where that is not known."""
    scopes = node.metadata_props.get(_SCOPES)
    return _from_scopes(scopes) if scopes is not None else _from_name(node.name or "")


def _from_scopes(text: str) -> str:
    """``"['', 'layer4', 'layer4.1', 'relu_16']"``: the last entry is the node's own name."""
    try:
        scopes = ast.literal_eval(text) if len(text) < 10_000 else []
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""
    modules = [s for s in scopes[:-1] if isinstance(s, str) and s] if isinstance(scopes, list) else []
    return modules[-1] if modules else ""


def _from_name(name: str) -> str:
    """``"/layer4/layer4.1/relu_1/Relu"``: an item of a Sequential repeats its parent's name in front of its number."""
    if not name.startswith("/"):
        return ""
    path: list[str] = []
    parent = ""
    for part in name.split("/")[1:-1]:
        path.append(part[len(parent) + 1 :] if parent and part.startswith(parent + ".") else part)
        parent = part
    return ".".join(path)


def _returned(nodes: list[ir.Node], path: str) -> ir.Value | None:
    """The tensor that a module returns: the last one of its own that others read.

    Where others read it both turned and not, an exporter has cancelled a Transpose of theirs with the module's last:
    all that they read came out of the tensor before it.
    """
    inside = [n for n in nodes if _is_within(module_path(n), path, exact=_SCOPES in n.metadata_props)]
    members = set(inside)
    leaving = [v for n in inside for v in n.outputs if v.is_graph_output() or _others_read(v, members)]
    value = leaving[-1] if leaving else None
    while value is not None and (source := _turned_from(value)) in leaving:
        value = source
    return value


def _turned_from(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Transpose" else None


def _others_read(value: ir.Value, members: set[ir.Node]) -> bool:
    return any(use.node not in members for use in value.uses())


def _is_within(found: str, path: str, *, exact: bool) -> bool:
    """Without scopes, the second call of a module ``relu`` is only known as ``relu_1``."""
    if not found or not path:
        return False
    return any(part == path or (not exact and _REPEATED.sub("", part) == path) for part in _prefixes(found))


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def operator_of(value: ir.Value) -> str:
    """The operator that makes a tensor, with its module's path where that is known; empty for inputs."""
    node = value.producer()
    if node is None:
        return ""
    path = module_path(node)
    return f"{node.op_type} ({path})" if path else node.op_type


def is_inner(value: ir.Value) -> bool:
    """A copy, or read by nothing but one operator of the same block: a part of it, not its end."""
    inner = (
        *("Concat", "Add", "Sum", "Mul", "BatchNormalization", "Relu", "Clip", "QuantizeLinear", "Slice", "Pad"),
        *("QLinearConcat", "QLinearAdd", "QLinearMul"),
    )
    node, users = value.producer(), {use.node for use in value.uses()}
    copied = node is not None and node.op_type == "Identity"
    return copied or (len(users) == 1 and next(iter(users)).op_type in inner)
