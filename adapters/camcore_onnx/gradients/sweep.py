"""Reverse-mode differentiation of a graph: one sweep from the score back to some tensors, written as nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import FLAT, rule_of
from camcore_onnx.gradients.tensor import STEEP, Tensor
from camcore_onnx.layers import module_path
from camcore_onnx.tails import sources

__all__ = ["Way", "pull_back"]

_WHOLE = {
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.BOOL,
    ir.DataType.STRING,
}


@dataclass(frozen=True, eq=False)
class Way:
    """How a gradient goes from some tensors back to others.

    Attributes
    ----------
    graph : ir.Graph
    starts : collection of ir.Value
        Whose gradient is given: the scores.
    wanted : collection of ir.Value
        Whose gradient is asked for: the layers.
    facts : Facts, optional
        Types that the graph does not state.
    """

    graph: ir.Graph
    starts: Collection[ir.Value]
    wanted: Collection[ir.Value]
    facts: Facts | None = None

    @cached_property
    def reached(self) -> set[ir.Value]:
        """What changes with the tensors wanted."""
        reached = set(self.wanted)
        for node in self.graph:
            if any(v in reached for v in self.carriers(node)):
                reached.update(v for v in node.outputs if self._is_smooth(v))
        return reached

    @cached_property
    def nodes(self) -> list[ir.Node]:
        """The nodes on a way from a tensor wanted to a start, in the order of the graph."""
        behind, found = set(self.starts), []
        for node in reversed(list(self.graph)):
            if not any(v in behind for v in node.outputs):
                continue
            sources = [v for v in self.carriers(node) if v in self.reached]
            if sources:
                found.append(node)
                behind.update(sources)
        return found[::-1]

    @property
    def values(self) -> Iterator[ir.Value]:
        """What the rules of these nodes may look at."""
        for node in self.nodes:
            yield from (v for v in node.inputs if v is not None)
            yield from (v for v in node.outputs if v.name)

    @property
    def missing(self) -> list[ir.Node]:
        """The nodes that have no rule."""
        return [node for node in self.nodes if rule_of(node.domain, node.op_type) is None]

    @property
    def approximate(self) -> list[str]:
        """What is not exact, and why; each once."""
        rules = (rule_of(node.domain, node.op_type) for node in self.nodes)
        return list(dict.fromkeys(f"{r.op}: {r.approximate}" for r in rules if r is not None and r.approximate))

    @cached_property
    def joined_before(self) -> dict[ir.Node, ir.Node]:
        """For a Concat, the one that joins the longest part of its inputs from the first on, if there is one.

        A dense block joins all maps anew for each of its layers. The gradient of what was joined before goes through
        that Concat, in one piece; but not where its output is wanted, for it does not come through that tensor.
        """
        known: dict[tuple[object, ...], ir.Node] = {}
        found = {}
        for node in self.nodes:
            if node.op_type != "Concat" or node.domain not in ("", "ai.onnx"):
                continue
            axis, inputs = node.attributes["axis"].as_int() if "axis" in node.attributes else 1, tuple(node.inputs)
            shorter = (known.get((axis, *inputs[:k])) for k in range(len(inputs) - 1, 1, -1))
            before = next((other for other in shorter if other is not None), None)
            if before is not None:
                found[node] = before
            if node.outputs[0] not in self.wanted:
                known.setdefault((axis, *inputs), node)
        return found

    def carriers(self, node: ir.Node) -> Iterator[ir.Value]:
        """The inputs of a node on which its output depends smoothly."""
        if node.domain in ("", "ai.onnx") and (node.op_type in FLAT or _is_step(node)):
            return
        rule = rule_of(node.domain, node.op_type)
        read = enumerate(node.inputs) if rule is not None else enumerate(sources(node))  # branches read, too
        for i, value in read:
            if value is not None and (rule is None or i not in rule.flat) and self._is_smooth(value):
                yield value

    def _is_smooth(self, value: ir.Value) -> bool:
        """Whether a tensor holds floats, or integers that stand for them."""
        dtype = value.dtype if self.facts is None else self.facts.dtype(value)
        return dtype not in _WHOLE


def _is_step(node: ir.Node) -> bool:
    """A mask that a rule has written."""
    steep = node.attributes.get("alpha") if node.op_type == "HardSigmoid" else None
    return steep is not None and abs(steep.as_float()) >= STEEP


def pull_back(way: Way, seeds: Mapping[ir.Value, Tensor], pen: Pen) -> dict[ir.Value, Tensor]:
    """Write the gradients of the tensors wanted, from those of the starts.

    Parameters
    ----------
    way : Way
        On which every node has a rule.
    seeds : dict
        The gradient of each start.
    pen : Pen

    Returns
    -------
    dict
        The gradient of each tensor wanted; axes may be of length one where it is the same all along.

    Raises
    ------
    MethodNotPossible
        If a node has no rule, a rule refuses its node, or no gradient arrives.
    """
    arrived: dict[ir.Value, list[Tensor]] = {start: [seed] for start, seed in seeds.items()}
    scope = pen.scope
    for node in reversed(way.nodes):
        gradients = [_total(arrived.get(v, ())) for v in node.outputs]
        if all(g is None for g in gradients):
            continue
        pen.scope = f"{scope}/{_place(node)}"
        for value, gradient in _through(node, gradients, way, pen):
            arrived.setdefault(value, []).append(gradient)
    pen.scope = scope
    found = {value: _total(arrived.get(value, ())) for value in way.wanted}
    for value in [v for v, gradient in found.items() if gradient is None]:
        raise MethodNotPossible(
            f"no gradient arrives at {value.name!r}: the scores do not depend on it; choose another layer"
        )
    return {value: gradient for value, gradient in found.items() if gradient is not None}


def _through(
    node: ir.Node, gradients: Sequence[Tensor | None], way: Way, pen: Pen
) -> Iterator[tuple[ir.Value, Tensor]]:
    """The gradient of each input of a node that leads to a tensor wanted."""
    rule = rule_of(node.domain, node.op_type)
    if rule is None:
        raise MethodNotPossible(f"the operator {node.op_type} has no gradient")
    step = Step(node, pen, gradients, way.wanted)
    if pen.opset < rule.since:
        step.refuse(f"its gradient needs opset {rule.since}, the model has {pen.opset}; convert it first")
    first, joined = _joined_before(step, way)
    if joined is not None:
        yield joined
    for i, value in enumerate(node.inputs):
        if i < first or value is None or value not in way.reached or i in rule.flat:
            continue
        if not rule.passes(i):
            step.refuse(f"its input {i}, {value.name!r}, depends on the layer too")
        g = next((g for g in gradients if g is not None), None)
        assert g is not None  # a node without is not visited
        g = g if rule.elementwise else _whole(step)
        pulled = rule.pull(step, g, i)
        if pulled is None:
            continue
        yield value, unbroadcast(pulled, step.x(i), step.y()) if rule.elementwise else pulled


def _joined_before(step: Step, way: Way) -> tuple[int, tuple[ir.Value, Tensor] | None]:
    """How many inputs were joined before, and that tensor with its gradient."""
    before = way.joined_before.get(step.node)
    if before is None:
        return 0, None
    value, axis = before.outputs[0], step.attribute("axis", 1)
    length = step.pen.read(value).shape[axis]
    if length is None:
        return 0, None
    return len(before.inputs), (value, _whole(step).slice(axis, 0, length))


def _whole(step: Step) -> Tensor:
    """The gradient of the first output that has one, as long as the output."""
    for i, g in enumerate(step.gradients):
        if g is not None:
            return g.expand(step.y(i))
    raise AssertionError("a node without gradients is not visited")


def _total(gradients: Iterable[Tensor]) -> Tensor | None:
    """Their sum, or None of none; what is short along an axis is added there first."""
    total: Tensor | None = None
    for gradient in sorted(gradients, key=lambda g: [n != 1 for n in g.shape]):
        total = gradient if total is None else total + gradient
    return total


def unbroadcast(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of ``x`` from that of what it became by broadcasting: summed where it was repeated.

    Parameters
    ----------
    g : Tensor
        Axes may be of length one where the gradient is the same all along.
    x, y : Tensor
        The input, and the output.
    """
    lead = y.rank - x.rank
    repeated = [a for a in range(y.rank) if (a < lead or x.shape[a - lead] == 1) and y.shape[a] != 1]
    long = [a for a in repeated if g.shape[a] != 1]
    short = [a for a in repeated if g.shape[a] == 1]
    g = g.sum(*long)
    if short:
        g = g * y.count(*short)
    return g.squeeze(*range(lead)) if lead else g


def _place(node: ir.Node) -> str:
    """Where a node stands, for the names of its derivative: ``layer4/1/conv2``."""
    path = module_path(node).replace(".", "/")
    return path or (node.name or node.outputs[0].name or node.op_type).strip("/").replace(".", "/")
