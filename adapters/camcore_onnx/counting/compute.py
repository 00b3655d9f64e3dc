"""Multiply-accumulates of a graph: how many one image takes, and how many of them lie behind a layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from camcore.errors import CamError
from camcore_onnx.constants import Constants
from camcore_onnx.counting.macs import MULTIPLIES, Unknown, macs_of
from camcore_onnx.gradients.facts import Feed, see
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.tails import reached, sources

__all__ = ["SIZE", "Compute", "count_macs", "look_up_lengths", "state_lengths"]

_MAX_ELEMENTS = 1 << 26  # of the noise that a model is tried with
SIZE = 224
"""The height and width that images get where a model takes any."""


@dataclass(frozen=True, eq=False)
class Compute:
    """What one image costs.

    Attributes
    ----------
    shapes : dict
        The input shapes that it was counted for, by name; one image each, or the fixed batch of the model.
    total : int or None
        Multiply-accumulates for one image; None where nothing could be counted.
    nodes : dict
        Those of each node of the graph that has some.
    lengths : dict
        Shapes of the graph's tensors for these inputs, as far as they could be told.
    batch : int
        How many images the counts of the nodes are for.
    missing : tuple of str
        Operators that multiply and were not counted: ``"Loop 'decoder'"``.
    problem : str
        Why nothing was counted.
    """

    shapes: Mapping[str, tuple[int, ...]]
    total: int | None
    nodes: Mapping[ir.Node, int] = field(default_factory=dict)
    lengths: Mapping[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    batch: int = 1
    missing: tuple[str, ...] = ()
    problem: str = ""

    def behind(self, graph: ir.Graph, value: ir.Value, target: ir.Value) -> int | None:
        """For one image, what lies between a tensor and another: a run of the tail, or a gradient through it."""
        if self.total is None:
            return None
        behind, needed = reached(graph, [value]), _needed(target)
        passed = (n for n in self.nodes if n in needed and not behind.isdisjoint(n.outputs) and value not in n.outputs)
        return sum(self.nodes[node] for node in passed) // self.batch


def _needed(target: ir.Value) -> set[ir.Node]:
    """The nodes that a tensor is computed by."""
    found: set[ir.Node] = set()
    stack = [target.producer()]
    while stack:  # no recursion: graphs are deep
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack += (v.producer() for v in sources(node))
    return found


def count_macs(loaded: Loaded, *, size: Sequence[int] = (), run: bool = True) -> Compute:
    """Count the multiply-accumulates of convolutions, matrix products, recurrent layers and attention.

    What has no weights or products (activations, normalisations, pooling, sums) is not counted, as in the tables of
    torchvision. What is computed of weights alone is not counted: runtimes compute it once.

    Parameters
    ----------
    loaded : Loaded
        Not changed. Weights in external files are not read.
    size : sequence of int
        Lengths for free spatial axes of the images; the last is repeated. ``SIZE`` where empty. Free batches are 1.
    run : bool
        Whether the model may be run once, on noise, where onnx cannot tell the shapes. It is not where weights lie
        in files of their own.

    Returns
    -------
    Compute
        With ``problem`` set where shapes cannot be told.
    """
    copy = replace(loaded, model=loaded.model.clone())
    graph = copy.model.graph
    problem = _fix_lengths(graph, [*size] or [SIZE])
    if problem:
        return Compute({}, None, problem=problem)
    shapes = {v.name or "": _lengths(v) or () for v in graph.inputs if v.name not in graph.initializers}
    infer_shapes(copy.model)
    pairs = list(zip(graph, loaded.model.graph, strict=True))
    live = _live(copy, pairs)
    known: dict[ir.Value, tuple[int, ...]] = {}
    unknown = _without_shape([node for node, _ in live], known)
    if unknown and run and loaded.folder is None:
        problem = _seen(copy, unknown, shapes, known)
    counts, missing = _count(live, known)
    lengths = _all_lengths(pairs, known)
    if missing and not counts:
        problem = problem or f"the shapes around {missing[0]} are not stated"
        return Compute(shapes, None, lengths=lengths, missing=missing, problem=problem)
    batch = next((s[0] for s in shapes.values() if len(s) > 2), 1) or 1
    return Compute(shapes, sum(counts.values()) // batch, counts, lengths, batch, missing)


def _live(loaded: Loaded, pairs: Sequence[tuple[ir.Node, ir.Node]]) -> list[tuple[ir.Node, ir.Node]]:
    """Those that depend on the image."""
    constants = Constants(loaded)
    return [(node, twin) for node, twin in pairs if not all(constants.is_constant(v) for v in node.outputs)]


def _all_lengths(
    pairs: Sequence[tuple[ir.Node, ir.Node]], known: Mapping[ir.Value, tuple[int, ...]]
) -> dict[ir.Value, tuple[int, ...]]:
    """Shapes by tensors of the graph as it came, from those of the copy."""
    twins = [
        (v, own)
        for node, twin in pairs
        for v, own in zip((*node.inputs, *node.outputs), (*twin.inputs, *twin.outputs), strict=True)
        if v is not None and own is not None
    ]
    found = ((own, known.get(v) or _lengths(v)) for v, own in twins)
    return {own: lengths for own, lengths in found if lengths is not None}


def state_lengths(loaded: Loaded, compute: Compute) -> None:
    """Write the lengths that were counted for into a model, where it leaves them free; the batch stays free.

    The shapes of its inputs and outputs stay as they are.
    """
    for node in loaded.model.graph:
        for value in node.outputs:
            counted = compute.lengths.get(value)
            if counted is None or value.type is None or value.is_graph_output() or (value.shape and _lengths(value)):
                continue
            stated = value.shape or [None] * len(counted)
            batch = [n for n in stated[:1] if not isinstance(n, int)]
            value.shape = ir.Shape([*batch, *counted[len(batch) :]])


def look_up_lengths(loaded: Loaded, compute: Compute, values: Iterable[ir.Value]) -> dict[ir.Value, tuple[int, ...]]:
    """The shapes of some tensors, those that were not counted from a run on noise; what cannot be told is left out.

    Weights in external files are not read, so there is no run then.
    """
    wanted = list(dict.fromkeys(values))
    found = {v: compute.lengths[v] for v in wanted if v in compute.lengths}
    missing = [v for v in wanted if v not in found]
    if missing and compute.shapes and loaded.folder is None:
        seen: dict[ir.Value, tuple[int, ...]] = {}
        _seen(loaded, missing, compute.shapes, seen)
        found |= seen
    return found


def _fix_lengths(graph: ir.Graph, size: list[int]) -> str:
    """Give every free axis of the inputs a length; why not, where one is of an unknown kind."""
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        if value.shape is None or (len(value.shape) < 3 and any(not isinstance(n, int) for n in value.shape[1:])):
            return f"the length of the input {value.name!r} is free"
        free = [1, 3, *size, *size[-1:] * len(value.shape)]
        value.shape = ir.Shape([n if isinstance(n, int) and n > 0 else free[i] for i, n in enumerate(value.shape)])
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.shape is not None and not all(isinstance(n, int) for n in value.shape):
                value.shape = None
    return ""


def _without_shape(nodes: Sequence[ir.Node], known: dict[ir.Value, tuple[int, ...]]) -> list[ir.Value]:
    """The tensors around nodes that multiply, or that onnx does not know, whose shapes are not known.

    Those that are go into ``known``.
    """
    around = [n for n in nodes if n.op_type in MULTIPLIES or n.domain not in ("", "ai.onnx")]
    values = [v for n in around for v in (*n.inputs, *n.outputs) if v is not None and v.name]
    for value in dict.fromkeys(values):
        lengths = _lengths(value)
        if lengths is not None:
            known[value] = lengths
    return [v for v in dict.fromkeys(values) if v not in known]


def _lengths(value: ir.Value) -> tuple[int, ...] | None:
    stated = value.shape if value.const_value is None else value.const_value.shape
    if stated is None or not all(isinstance(n, int) for n in stated):
        return None
    return tuple(n for n in stated if isinstance(n, int))


def _seen(
    loaded: Loaded,
    values: Sequence[ir.Value],
    shapes: Mapping[str, tuple[int, ...]],
    known: dict[ir.Value, tuple[int, ...]],
) -> str:
    """Shapes from a run; the reason where the model does not run."""
    if sum(map(math.prod, shapes.values())) > _MAX_ELEMENTS:
        return "its input is too large to be tried"
    feed = _feed([v for v in loaded.model.graph.inputs if v.name in shapes], shapes)
    try:
        facts = see(loaded, values, [feed])
        found = {v: facts.shape(v) for v in values}
    except CamError as error:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return f"it cannot be tried with {given}: {error}"
    known.update({v: tuple(n for n in shape if n is not None) for v, shape in found.items()})
    return ""


def _feed(images: Sequence[ir.Value], shapes: Mapping[str, tuple[int, ...]]) -> Feed:
    import numpy as np

    random = np.random.default_rng(0)
    types: list[Any] = [np.float32 if v.dtype is None else v.dtype.numpy() for v in images]
    return {
        v.name or "": (random.random(shapes[v.name or ""]) - 0.5).astype(dtype)
        for v, dtype in zip(images, types, strict=True)
    }


def _count(
    live: Sequence[tuple[ir.Node, ir.Node]], known: Mapping[ir.Value, tuple[int, ...]]
) -> tuple[dict[ir.Node, int], tuple[str, ...]]:
    """Multiply-accumulates by node of the graph as it came, and what could not be counted."""
    counts: dict[ir.Node, int] = {}
    missing: Counter[str] = Counter()
    for node, own in live:
        try:
            macs = macs_of(node, known)
        except Unknown:
            missing[node.op_type] += 1
            continue
        if macs:
            counts[own] = macs
    return counts, tuple(name if n == 1 else f"{name} ({n})" for name, n in missing.items())
