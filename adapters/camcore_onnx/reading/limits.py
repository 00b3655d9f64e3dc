"""How large and how deep a model may be: checked before any work is done on it.

The limits are far beyond any classifier known. Who has a larger one, and trusts it, sets the constant here first, as in
``camcore_onnx.reading.limits.MAX_NODES = 1_000_000``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from camcore.errors import InputError

__all__ = ["check_structure", "graphs_of", "nodes_of", "rough", "too_many"]

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_FILE = 1 << 31
"""Bytes of a file without its external data: what protobuf can read."""
MAX_NODES = 200_000
"""Nodes, with all functions written out."""
MAX_TENSORS = 200_000
"""Stored tensors."""
MAX_VALUES = 500_000
"""Inputs, outputs and other tensors whose shapes are stated."""
MAX_OUTPUTS = 1_000
"""Outputs of the graph."""
MAX_ENTRIES = 10_000_000
"""Names, attributes and texts in all nodes."""
MAX_FUNCTIONS = 20_000
"""Functions that the model defines."""
MAX_DEPTH = 24
"""Graphs inside graphs, and functions that call functions."""
MAX_BATCH = 1 << 28
"""Numbers in a batch of images, as far as the model states its size."""
MAX_METADATA = 64 << 20
"""Bytes of metadata."""
MAX_METADATA_KEYS = 10_000
"""Metadata entries."""

_Key = tuple[str, str, str]


def too_many(name: str, count: int | str, what: str, constant: str) -> InputError:
    """The error for a model that is beyond a limit."""
    limit = globals()[constant]
    return InputError(
        f"{name}: {count} {what}; the limit is {limit}. No classifier is like that; if you trust the file, raise "
        f"camcore_onnx.reading.limits.{constant}"
    )


def check_structure(proto: onnx.ModelProto, name: str) -> None:
    """Refuse what is too large or too deep, functions in a circle, custom operators and tensors of the same name.

    Raises
    ------
    InputError
    """
    _check_counts(proto, name)
    _check_metadata(proto, name)
    own = _own_functions(proto, name)
    domains = DOMAINS | {domain for domain, _, _ in own}
    nodes = 0
    for graph in (proto.graph, *proto.functions):
        for node, depth in nodes_of(graph):
            nodes += 1
            if depth > MAX_DEPTH:
                raise too_many(name, f"more than {MAX_DEPTH}", "graphs inside each other", "MAX_DEPTH")
            if nodes > MAX_NODES:
                raise too_many(name, f"more than {MAX_NODES}", "nodes", "MAX_NODES")
            if node.domain not in domains:
                raise _custom(name, node)
    if own:
        _check_calls(proto, own, name)
    _check_names(proto.graph, name)
    _check_outputs(proto.graph, name)


def _check_counts(proto: onnx.ModelProto, name: str) -> None:
    graph = proto.graph
    counts = {
        "MAX_NODES": (len(graph.node), "nodes"),
        "MAX_TENSORS": (len(graph.initializer) + len(graph.sparse_initializer), "stored tensors"),
        "MAX_OUTPUTS": (len(graph.output), "outputs"),
        "MAX_VALUES": (len(graph.input) + len(graph.value_info), "inputs and stated shapes"),
        "MAX_FUNCTIONS": (len(proto.functions), "functions"),
        "MAX_METADATA_KEYS": (len(proto.metadata_props), "metadata entries"),
    }
    for constant, (count, what) in counts.items():
        if count > globals()[constant]:
            raise too_many(name, count, what, constant)


def _check_metadata(proto: onnx.ModelProto, name: str) -> None:
    size = sum(len(entry.key) + len(entry.value) for entry in proto.metadata_props)
    if size > MAX_METADATA:
        raise too_many(name, f"{size} bytes", "of metadata", "MAX_METADATA")


def _own_functions(proto: onnx.ModelProto, name: str) -> dict[_Key, onnx.FunctionProto]:
    counts = Counter(_key(f.domain, f.name, f.overload) for f in proto.functions)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"{name}: the graph is damaged: the function {_called(twice[0])} is defined twice")
    return {_key(f.domain, f.name, f.overload): f for f in proto.functions}


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _called(key: _Key) -> str:
    return f"{key[0]}::{key[1]}"


def _custom(name: str, node: onnx.NodeProto) -> InputError:
    return InputError(
        f"{name}: uses the custom operator {node.domain}::{node.op_type}; custom operators are refused. "
        "Export the model with standard operators"
    )


def _check_calls(proto: onnx.ModelProto, own: Mapping[_Key, onnx.FunctionProto], name: str) -> None:
    """How many nodes there are once functions are written out, found without writing them out."""
    calls = {key: _calls(function, own) for key, function in own.items()}
    sizes: dict[_Key, int] = {}
    levels: dict[_Key, int] = {}
    for key in _inner_first(calls, name):
        called = [k for k in calls[key] if k in own]
        sizes[key] = sum(count * sizes.get(k, 1) for k, count in calls[key].items())
        levels[key] = 1 + max((levels[k] for k in called), default=0)
        if levels[key] > MAX_DEPTH:
            raise too_many(name, f"more than {MAX_DEPTH}", "functions that call each other in a row", "MAX_DEPTH")
        if sizes[key] > MAX_NODES:  # here, for the numbers would grow without end
            raise too_many(name, rough(sizes[key]), "nodes once its functions are written out", "MAX_NODES")
    count = sum(count * sizes.get(k, 1) for k, count in _calls(proto.graph, own).items())
    if count > MAX_NODES:
        raise too_many(name, rough(count), "nodes once its functions are written out", "MAX_NODES")


def rough(count: int) -> str:
    """A number as text, of large ones the magnitude."""
    return str(count) if count < 10**9 else f"some 10^{len(str(count)) - 1}"


def _calls(graph: Any, own: Mapping[_Key, Any]) -> Counter[_Key]:
    """How often each function is called in a graph; what is no function counts under one key."""
    counts: Counter[_Key] = Counter()
    for node, _ in nodes_of(graph):
        key = _key(node.domain, node.op_type, node.overload)
        counts[key if key in own else ("", "", "")] += 1
    return counts


def _inner_first(calls: Mapping[_Key, Counter[_Key]], name: str) -> Iterator[_Key]:
    """Each function behind those that it calls."""
    done: set[_Key] = set()
    for start in calls:
        path, stack = [start], [iter(calls[start])] if start not in done else []
        while stack:
            inner = next((k for k in stack[-1] if k in calls and k not in done), None)
            if inner is None:
                stack.pop()
                done.add(path[-1])
                yield path.pop()
            elif inner in path:
                circle = " -> ".join(_called(k) for k in (*path[path.index(inner) :], inner)[:6])
                raise InputError(f"{name}: the graph is damaged: the function {_called(inner)} calls itself ({circle})")
            else:
                path.append(inner)
                stack.append(iter(calls[inner]))


def _check_names(graph: onnx.GraphProto, name: str) -> None:
    """Each tensor is made in one place; an initialiser may be an input too."""
    made = Counter(output for node in graph.node for output in node.output if output)
    made.update({v.name for v in graph.input} | {t.name for t in graph.initializer})
    made.update(Counter(t.name for t in graph.initializer) - Counter({t.name for t in graph.initializer}))
    made.update(Counter(v.name for v in graph.input) - Counter({v.name for v in graph.input}))
    tensor, count = next(iter(made.most_common(1)), ("", 1))
    if count > 1:
        raise InputError(f"{name}: the graph is damaged: {count} tensors are called {tensor[:80]!r}")


def _check_outputs(graph: onnx.GraphProto, name: str) -> None:
    made = {output for node in graph.node for output in node.output}
    made |= {v.name for v in graph.input} | {t.name for t in graph.initializer}
    made |= {t.values.name for t in graph.sparse_initializer}
    for value in graph.output:
        if value.name not in made:
            raise InputError(f"{name}: the graph is damaged: nothing makes its output {value.name[:80]!r}")


def nodes_of(graph: Any) -> Iterator[tuple[onnx.NodeProto, int]]:
    """The nodes of a graph or function and of the graphs inside them, and how deep they lie."""
    for inner, depth in graphs_of(graph):
        for node in inner.node:
            yield node, depth


def graphs_of(graph: Any) -> Iterator[tuple[Any, int]]:
    """A graph or function and the graphs inside it, and how deep they lie; no recursion, for they may be deep."""
    stack = [(graph, 0)]
    while stack:
        top, depth = stack.pop()
        yield top, depth
        for node in top.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    stack.append((attribute.g, depth + 1))
                stack += [(inner, depth + 1) for inner in attribute.graphs]
