"""Vector-Jacobian products of any graph: the engine by itself, without classes and layers."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.facts import Facts, Feed, see
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.sweep import Way, pull_back
from camcore_onnx.gradients.tensor import Tensor, work_type
from camcore_onnx.reading.load import Loaded

__all__ = ["SEED", "add_vjp", "way_between"]

SEED = "grad/seed"


def way_between(loaded: Loaded, starts: Sequence[ir.Value], wanted: Sequence[ir.Value], feeds: Sequence[Feed]) -> Way:
    """The way of a gradient, with the facts about the tensors on it.

    Raises
    ------
    MethodNotPossible
        If no way leads from a start to a tensor wanted.
    """
    graph = loaded.model.graph
    guess = Way(graph, starts, wanted)
    values = [*guess.values, *starts, *wanted]
    way = Way(graph, starts, wanted, see(loaded, values, feeds))
    if not way.nodes and not set(starts) & set(wanted):
        names = ", ".join(repr(v.name) for v in wanted)
        raise MethodNotPossible(f"the scores {starts[0].name!r} do not depend on {names}; choose another layer")
    return way


def add_vjp(loaded: Loaded, output: ir.Value, wanted: Sequence[ir.Value], feeds: Sequence[Feed]) -> list[Tensor]:
    """Append the vector-Jacobian product of one output to a graph.

    Parameters
    ----------
    loaded : Loaded
        Its graph is changed: it gets an input ``grad/seed``, of the shape of ``output``.
    output : ir.Value
    wanted : sequence of ir.Value
    feeds : sequence of dict
        Inputs of at least one run; see :func:`camcore_onnx.gradients.facts.see`.

    Returns
    -------
    list of Tensor
        The gradients, as long as the tensors wanted.
    """
    way = way_between(loaded, [output], wanted, feeds)
    assert way.facts is not None  # from way_between
    pen = Pen(loaded.model.graph, way.facts)
    seed = _seed(loaded.model.graph, output, way.facts, pen)
    found = pull_back(way, {output: seed}, pen)
    return [found[v].expand(pen.read(v)) for v in wanted]


def _seed(graph: ir.Graph, output: ir.Value, facts: Facts, pen: Pen) -> Tensor:
    dtype, lengths = work_type(facts.dtype(output)), facts.shape(output)
    value = ir.Value(name=SEED, type=ir.TensorType(dtype), shape=ir.Shape(list(lengths)))
    graph.inputs.append(value)
    return Tensor(pen, value, dtype, lengths)
