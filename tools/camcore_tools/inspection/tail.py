"""What of a graph is drawn: its last block, the head, all outputs, and what is embedded between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from camcore_onnx.counting.compute import look_up_lengths
from camcore_onnx.shapes import lengths_of
from camcore_onnx.tails import reached, sources
from camcore_onnx.unfold.integers import whole_of

from camcore_tools.inspection.picture import Box, Edge, Picture, title_of

if TYPE_CHECKING:
    from camcore_tools.inspection.facts import Subject

__all__ = ["tail_of"]

_MOST = 40  # boxes
_MUCH = 9  # nodes that make an output alone
_BLOCK = (4, 14)  # boxes in front of the features: enough for a block, and no more than these
# Operators that change no number: a chain of these is one box.
_LIGHT = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Identity", "Flatten", "Dropout", "Expand"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
_LINES = 5
_SHORT = {"QuantizeLinear": "Quantize", "DequantizeLinear": "Dequantize"}
_SIZES = frozenset({"Shape", "Size"})


def tail_of(subject: Subject, layer: str | None = None) -> Picture | None:
    """Choose what to draw of an ONNX model; None for others.

    Parameters
    ----------
    subject : Subject
    layer : str, optional
        The features; those that the head reads where absent.
    """
    return None if subject.loaded is None else _Choice(subject, layer).picture()


class _Choice:
    def __init__(self, subject: Subject, layer: str | None) -> None:
        assert subject.loaded is not None
        self.loaded = subject.loaded
        self.graph = self.loaded.model.graph
        self.compute = subject.compute
        backend: Any = subject.backend
        self.features: ir.Value | None = None
        self.logits: ir.Value | None = None
        self.pooled = False
        if backend is not None:
            features = backend.found.features if layer is None else backend.value(layer)
            self.pooled = backend.found.head is not None and backend.found.reads(features)
            self.logits, self.features = self._own(backend.found.logits), self._own(features)
        self.inputs = {v for v in self.graph.inputs if self._is_input(v)}
        self.moving = reached(self.graph, self.inputs)
        self.known: dict[ir.Value, tuple[int, ...]] = {}
        self.live = list(self._without_sizes())
        self.index = {node: i for i, node in enumerate(self.live)}
        self.makers = {v: n for n in self.live for v in n.outputs}
        self.behind = self._behind()
        pictures = reached(self.graph, [v for v in self.inputs if v.name not in self.graph.initializers])
        self.aside = {node for node in self.live if pictures.isdisjoint(sources(node))}
        self.scored = self._scored()

    def _own(self, value: ir.Value | None) -> ir.Value | None:
        """The tensor of this name in the file: what is explained is a copy where there is a map inside.

        Of numbers that stand for integers, the integers.
        """
        if value is None:
            return None
        name = whole_of(value).name
        return next((v for node in self.graph for v in node.outputs if v.name == name), None)

    def _without_sizes(self) -> Iterator[ir.Node]:
        """The nodes that compute with more than the lengths of tensors."""
        sizes: set[ir.Value] = set()
        for node in self.graph:
            moving = [v for v in sources(node) if v in self.moving]
            if node.op_type in _SIZES or (moving and all(v in sizes for v in moving)):
                sizes.update(node.outputs)
            elif moving and any(v.uses() or v.is_graph_output() for v in node.outputs):
                yield node

    def _behind(self) -> set[ir.Node]:
        behind = set() if self.features is None else reached(self.graph, [self.features]) - {self.features}
        return {node for node in self.live if not behind.isdisjoint(node.outputs)}

    def _scored(self) -> set[ir.Node]:
        """The nodes that the scores are computed by."""
        found: set[ir.Node] = set()
        stack = [self.makers.get(self.logits)] if self.logits is not None else []
        while stack:
            node = stack.pop()
            if node is not None and node not in found:
                found.add(node)
                stack += [self.makers.get(v) for v in self._inputs(node)]
        return found

    def _inputs(self, node: ir.Node) -> list[ir.Value]:
        """What a node reads that is neither a weight nor a length."""
        return [v for v in dict.fromkeys(sources(node)) if v in self.makers or v in self.inputs]

    def _is_input(self, value: ir.Value) -> bool:
        """Not a weight: before IR version 4, and in files made as then, all of them are inputs too."""
        return value.name not in self.graph.initializers or (value.dtype is not None and value.dtype.is_integer())

    def picture(self) -> Picture:
        groups = self._folded(self._grouped(self._chosen()))[-_MOST:]
        self._look_up(groups)
        kept = {node for group in groups for node in group}
        boxes = [self._box(group) for group in groups]
        ends = {node: i for i, group in enumerate(groups) for node in group}
        fronts, edges = self._edges(groups, ends, kept)
        moved = len(fronts)
        outputs = [v for v in self.graph.outputs if v in self.makers and self.makers[v] in ends]
        edges = [Edge(*self._moved(e, moved), e.name, e.shape, e.type, e.mark) for e in edges]
        pills = [Box("output", "tail", v.name or "", self._shape(v)) for v in outputs]
        edges += [self._edge(v, ends[self.makers[v]] + moved, moved + len(boxes) + i) for i, v in enumerate(outputs)]
        return Picture([*fronts, *boxes, *pills], edges)

    def _look_up(self, groups: Sequence[Sequence[ir.Node]]) -> None:
        """The shapes of what is drawn."""
        drawn = (v for group in groups for node in group for v in (*self._inputs(node), *node.outputs) if v.uses())
        outputs = [v for v in self.graph.outputs if v in self.makers]
        if self.compute is not None and self.compute.shapes:
            self.known = look_up_lengths(self.loaded, self.compute, [*drawn, *outputs])

    @staticmethod
    def _moved(edge: Edge, by: int) -> tuple[int, int]:
        """Boxes in front have negative numbers, -1 first, until it is known how many there are."""
        return (edge.source + by if edge.source >= 0 else -1 - edge.source), edge.target + by

    def _chosen(self) -> list[ir.Node]:
        """The block in front of the features, all behind, and what is made of optional inputs alone.

        The end of the graph where there are no features.
        """
        if self.features is None:
            return self.live[-_BLOCK[1] * 2 :]
        return sorted(self.behind | self.aside | self._block(), key=self.index.__getitem__)

    def _block(self) -> set[ir.Node]:
        """Back from the features to the first tensor that all goes through, with enough nodes on the way."""
        found: set[ir.Node] = set()
        front = set() if self.features is None else {self.features}
        while front:
            nodes = [self.makers[v] for v in front if v in self.makers]
            if not nodes or (len(front) == 1 and len(found) >= _BLOCK[0]) or len(found) >= _BLOCK[1]:
                break
            last = max(nodes, key=self.index.__getitem__)
            found.add(last)
            front = {v for v in front if self.makers.get(v) is not last} | set(self._inputs(last))
        return found

    def _grouped(self, chosen: Sequence[ir.Node]) -> list[list[ir.Node]]:
        """Chains of light operators as one box, unless something of interest lies between."""
        kept, groups = set(chosen), []
        at: dict[ir.Node, list[ir.Node]] = {}
        for node in chosen:
            above = self._joined(node, kept)
            if above is not None and above in at:
                at[above].append(node)
                at[node] = at[above]
            else:
                at[node] = [node]
                groups.append(at[node])
        return groups

    def _folded(self, groups: list[list[ir.Node]]) -> list[list[ir.Node]]:
        """All that camcore added for one output alone, a heatmap, as one box where it is much."""
        aims: dict[ir.Node, set[ir.Value]] = {}
        for group in reversed(groups):
            for node in reversed(group):
                users = {use.node for v in node.outputs for use in v.uses()}
                own = {v for v in node.outputs if v.is_graph_output()}
                aims[node] = own.union(*(aims.get(user, set()) for user in users))
        folds: dict[ir.Value, list[ir.Node]] = {}
        rest = []
        for group in groups:
            aim = aims[group[0]]
            if len(aim) == 1 and self._role(group[0]) == "cam":
                folds.setdefault(next(iter(aim)), []).extend(group)
            else:
                rest.append(group)
        small = [group for group in groups if any(group[0] in fold for fold in folds.values() if len(fold) < _MUCH)]
        large = [fold for fold in folds.values() if len(fold) >= _MUCH]
        return sorted([*rest, *small, *large], key=lambda group: self.index[group[-1]])

    def _joined(self, node: ir.Node, kept: set[ir.Node]) -> ir.Node | None:
        inputs = self._inputs(node)
        if node.op_type not in _LIGHT or len(inputs) != 1:
            return None
        value = inputs[0]
        above = self.makers.get(value)
        if above is None or above not in kept or above.op_type not in _LIGHT or self._role(above) != self._role(node):
            return None
        alone = len({use.node for use in value.uses()} & set(self.live)) == 1
        marked = value in (self.features, self.logits) or value.is_graph_output()
        return above if alone and not marked else None

    def _edges(
        self, groups: Sequence[Sequence[ir.Node]], ends: dict[ir.Node, int], kept: set[ir.Node]
    ) -> tuple[list[Box], list[Edge]]:
        """Edges between boxes; what comes from elsewhere comes from inputs, or from one box for all in front."""
        fronts: dict[object, Box] = {}
        edges = []
        for i, group in enumerate(groups):
            for value in dict.fromkeys(v for node in group for v in self._inputs(node)):
                maker = self.makers.get(value)
                if maker in ends:
                    if ends[maker] != i:
                        edges.append(self._edge(value, ends[maker], i))
                    continue
                key: object = value if maker is None else "front"
                if key not in fronts:
                    fronts[key] = self._input(value) if maker is None else self._front(kept)
                edges.append(self._edge(value, -1 - list(fronts).index(key), i))
        return list(fronts.values()), edges

    def _edge(self, value: ir.Value, source: int, target: int) -> Edge:
        mark = "features" if value is self.features else "scores" if value is self.logits else ""
        kind = "?" if value.dtype is None else value.dtype.name.lower()
        return Edge(source, target, value.name or "", self._shape(value), kind, mark)

    def _shape(self, value: ir.Value) -> str:
        lengths = self.known.get(value, None if value.shape is None else lengths_of(value))
        return "?" if lengths is None else "×".join("?" if n is None else str(n) for n in lengths) or "scalar"

    def _input(self, value: ir.Value) -> Box:
        return Box("input", "trunk", value.name or "", self._shape(value))

    def _front(self, kept: set[ir.Node]) -> Box:
        rest = [node for node in self.live if node not in kept]
        return Box("front", "trunk", f"{len(rest)} nodes in front", macs=sum(map(self._macs, rest)))

    def _macs(self, node: ir.Node) -> int:
        return 0 if self.compute is None else self.compute.nodes.get(node, 0) // self.compute.batch

    def _role(self, node: ir.Node) -> str:
        if node not in self.behind and node not in self.aside:
            return "trunk"
        if node in self.scored:
            return "head" if self.pooled else "tail"
        return "cam" if (node.name or node.outputs[0].name or "").startswith(("cam", "heatmap")) else "tail"

    def _box(self, group: Sequence[ir.Node]) -> Box:
        first = group[0]
        if len(group) >= _MUCH and self._role(first) == "cam":
            counts = Counter(node.op_type for node in group).most_common()
            lines = wrap(", ".join(f"{n} {name}" if n > 1 else name for name, n in counts), 31)[:_LINES]
            name = next((v.name for v in group[-1].outputs), "") or ""
            return Box("node", "cam", f"{len(group)} nodes", name, lines, sum(map(self._macs, group)), tuple(group))
        titles = [title_of(node) if len(group) == 1 else _SHORT.get(node.op_type, node.op_type) for node in group]
        text = " › ".join(titles) if len(titles) < 4 else f"{titles[0]} › … › {titles[-1]}"
        details = [line for node in group for line in self._weights(node)][:3]
        name = next((n.name for n in group if n.name), "") or group[-1].outputs[0].name or ""
        return Box("node", self._role(first), text, name, details, sum(map(self._macs, group)), tuple(group))

    def _weights(self, node: ir.Node) -> list[str]:
        """The shapes of the arrays that it reads; single numbers are left out."""
        stored = [v for v in node.inputs if v is not None and v not in self.moving]
        shapes = [lengths for v in stored if (lengths := self._stored(v)) and max(lengths, default=0) > 1]
        words = ["×".join(map(str, lengths)) for lengths in shapes]
        many = [w for w, lengths in zip(words, shapes, strict=True) if len(lengths) > 1]
        few = [w for w, lengths in zip(words, shapes, strict=True) if len(lengths) == 1]
        if node.op_type in _LIGHT - {"QuantizeLinear", "DequantizeLinear"}:
            return []
        return [" + ".join([*many, *few])] if words else []

    def _stored(self, value: ir.Value) -> tuple[int, ...] | None:
        found = None if self.compute is None else self.compute.lengths.get(value)
        if found is None and value.const_value is not None:
            found = tuple(n for n in value.const_value.shape if isinstance(n, int))
        return found
