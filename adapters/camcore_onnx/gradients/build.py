"""Put the gradients of a class, or the map made of them, into a copy of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from camcore.errors import InputError, MethodNotPossible
from camcore.layout import Layout
from camcore.methods.gradients import grad_cam
from camcore.methods.table import Method
from camcore.scores import top_count
from camcore_onnx.gradients.facts import Facts, Feed, see
from camcore_onnx.gradients.finish import finish, is_even, places
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.refuse import check_layer, explain_missing
from camcore_onnx.gradients.seeds import Seeds, best_classes, chosen_classes, every_class, slopes
from camcore_onnx.gradients.several import Again, check_rows, repeat_tail
from camcore_onnx.gradients.shortcut import FlatReader, flat_reader
from camcore_onnx.gradients.sweep import Way, pull_back
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.surgery import free_copy, remove_unread
from camcore_onnx.unfold import dequantized, unfold

__all__ = ["CLASS", "SLOPES", "Built", "Order", "build", "score_rows", "spatial"]

CLASS, CLASSES, SLOPES = "cam_class", "cam_classes", "cam_slopes"
_WHOLE, _FLOAT = ir.DataType.INT64, ir.DataType.FLOAT


@dataclass(frozen=True, eq=False)
class Order:
    """What to put into a graph.

    Attributes
    ----------
    scores : str
        The tensor with the (N, K) class scores, before a final softmax.
    layers : tuple of str
        Tensors.
    target : str or None
        What gradients are taken of; None where its slopes over the scores are an input, ``cam_slopes``.
    classes : str or int
        ``"input"``: an int32 input ``cam_class`` (N,), -1 for the best class; ``"inputs"``: the same, (N, T), -1 in
        column t for the class of rank t; ``"top1"``: the best, ``"top5"``: the best five; a number: that class.
    method : Method, optional
        Whose map to give; the gradients where absent.
    curvature : bool
        Whether to give the Hessian of the target times the features too; a method that needs it gets it anyhow.
    layouts : tuple of Layout
        How the layers hold their maps, for a method.
    alone : bool
        Whether each class has a sigmoid of its own.
    titles : tuple of str
        What ends the names of the outputs, one a layer.
    full : bool
        Whether gradients that are the same at all positions are repeated there; else they have spatial axes of one.
    every : bool
        Whether the classes are the first ones instead of the best ones; for ``"topK"`` with K > 1.
    """

    scores: str = ""
    layers: tuple[str, ...] = ()
    target: str | None = "logit"
    classes: str | int = "input"
    method: Method | None = None
    curvature: bool = False
    layouts: tuple[Layout, ...] = ()
    alone: bool = False
    titles: tuple[str, ...] = ()
    full: bool = False
    every: bool = False

    @property
    def several(self) -> bool:
        """Whether there is a row for each of several classes."""
        return self.classes == "inputs" or self.top > 1

    @property
    def top(self) -> int:
        """How many of the best classes the graph chooses by itself."""
        return top_count(self.classes) if isinstance(self.classes, str) else 0

    @property
    def bends(self) -> bool:
        return self.curvature or (self.method is not None and "curvature" in self.method.needs)


@dataclass(frozen=True, eq=False)
class Built:
    """A model with gradients in it.

    Attributes
    ----------
    model : ir.Model
    features, gradients, curvatures, maps : tuple of str
        Names of outputs, one a layer; empty where not asked for.
    classes : str
        The output with the (N, T) classes explained.
    again : str
        Where the tail is there twice: the tensor with the scores of the second one, (N * T, K), which must be those of
        the first.
    approximate : tuple of str
        Which operators have no exact derivative, and why.
    added : int
        How many nodes were added.
    facts : Facts
        What the nodes rely on.
    """

    model: ir.Model
    features: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    curvatures: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    classes: str = ""
    approximate: tuple[str, ...] = ()
    added: int = 0
    facts: Facts | None = None


def build(loaded: Loaded, order: Order, feeds: Sequence[Feed]) -> Built:
    """A copy of a model with what is ordered as outputs behind its own.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    order : Order
    feeds : sequence of dict
        Images, of at least one run; see :func:`camcore_onnx.gradients.facts.probes`.

    Raises
    ------
    MethodNotPossible
        If there is no way for a gradient from the scores to a layer.
    """
    return _Site(replace(loaded, model=free_copy(loaded.model)), order, feeds).build()


@dataclass(eq=False)
class _Site:
    """A graph that is built on; its parts come into being in the order of the methods."""

    loaded: Loaded
    order: Order
    feeds: Sequence[Feed]
    outputs: dict[str, list[str]] = field(default_factory=dict)
    _given: list[ir.Value] = field(default_factory=list)

    @property
    def graph(self) -> ir.Graph:
        return self.loaded.model.graph

    def build(self) -> Built:
        before = len(list(self.graph))
        self._check_name(CLASSES)
        scores, layers = self._written_out()
        given = self._given = self._inputs(scores)
        again = Again(scores, tuple(layers))
        if self.order.several:
            again = repeat_tail(self.loaded, layers, scores, given[-1])
            check_rows(self.loaded, scores, again.scores, self._runs())
        way = self._way(scores, layers, again)
        assert way.facts is not None  # from _way
        pen = Pen(self.graph, way.facts)
        pen.scope = "grad"
        seed = self._seed(pen, scores, again.scores, given)
        gradients = self._gradients(way, again, seed, pen)
        for i, layer in enumerate(again.layers):
            self._finish(i, pen, layers[i], layer, gradients[i])
        remove_unread(self.graph, ("grad/", "again/", "curvature/"))
        parts: dict[str, Any] = {kind: tuple(names) for kind, names in self.outputs.items()}
        parts["classes"] = parts.pop("classes", ("",))[0]
        return Built(
            self.loaded.model,
            approximate=tuple(way.approximate),
            added=len(list(self.graph)) - before,
            facts=way.facts,
            **parts,
        )

    def _gradients(self, way: Way, again: Again, seed: Tensor, pen: Pen) -> list[Tensor]:
        """Of each layer; for Grad-CAM its mean is enough, where that is cheaper."""
        readers = {layer: self._reader(i, layer, way, pen) for i, layer in enumerate(again.layers)}
        ends = {layer: layer if reader is None else reader.output for layer, reader in readers.items()}
        found = pull_back(Way(self.graph, way.starts, list(ends.values()), way.facts), {again.scores: seed}, pen)
        return [
            found[ends[layer]] if reader is None else reader.mean(found[ends[layer]], pen.read(layer))
            for layer, reader in readers.items()
        ]

    def _reader(self, i: int, layer: ir.Value, way: Way, pen: Pen) -> FlatReader | None:
        if self.order.method is None or self.order.method.formula is not grad_cam or len(self.order.layers) > 1:
            return None
        return flat_reader(way, layer, pen) if self.order.layouts[i].kind == "first" else None

    def _written_out(self) -> tuple[ir.Value, list[ir.Value]]:
        """The scores and the layers, once fused and quantised operators between them are written out."""
        names = self._values()
        scores, layers = names[self.order.scores], [names[name] for name in self.order.layers]
        count = len(list(self.graph))
        unfold(self.loaded.model, Way(self.graph, [scores], layers).nodes, self.feeds)
        if len(list(self.graph)) != count:
            infer_shapes(self.loaded.model)
        names = self._values()
        floats = [dequantized(self.loaded.model, names[name]) for name in self.order.layers]
        self.graph.sort()
        return dequantized(self.loaded.model, names[self.order.scores]), floats

    def _values(self) -> dict[str, ir.Value]:
        made = {v.name or "": v for node in self.graph for v in node.outputs}
        return made | {v.name or "": v for v in self.graph.inputs}

    def _inputs(self, scores: ir.Value) -> list[ir.Value]:
        """What says which classes are explained: an input that is added, or the best ones; nothing for a fixed one."""
        rows = ["N", "T"] if self.order.several else ["N"]
        if self.order.target is None:
            return [self._input(SLOPES, _FLOAT, [*rows, "K"])]
        if self.order.top > 1:
            choice = every_class if self.order.every else best_classes
            return [choice(self.graph, scores, self.order.top)]
        return [self._input(CLASS, ir.DataType.INT32, rows)] if self.order.classes in ("input", "inputs") else []

    def _check_name(self, name: str) -> None:
        if name in self._values() or name in self.graph.initializers:
            raise InputError(f"the model has a tensor called {name!r} already: were gradients added before?")

    def _input(self, name: str, dtype: ir.DataType, shape: Sequence[str]) -> ir.Value:
        self._check_name(name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(list(shape)))
        self.graph.inputs.append(value)
        return value

    def _way(self, scores: ir.Value, layers: Sequence[ir.Value], again: Again) -> Way:
        guess = Way(self.graph, [again.scores], again.layers)
        for layer in layers:
            check_layer(guess, layer, scores)
        explain_missing(guess)
        values = [*guess.values, *again.layers, *layers, scores, again.scores]
        way = Way(self.graph, [again.scores], again.layers, see(self.loaded, values, self._runs()))
        for layer in layers:
            check_layer(way, layer, scores)
        return way

    def _runs(self) -> list[Feed]:
        """The images, with values of the inputs that were added: of two numbers of classes at least."""
        images = [*self.feeds, *self.feeds] if self.order.several else self.feeds
        return [{**feed, **self._example(feed, i)} for i, feed in enumerate(images)]

    def _example(self, feed: Feed, i: int) -> Feed:
        """Values of the inputs that were added, of so many images."""
        shape: tuple[int, ...] = (len(next(iter(feed.values()))), *([2 + i] if self.order.several else []))
        if self.order.target is None:
            width = self._width()
            return {SLOPES: np.zeros((*shape, width), np.float32)}
        return {CLASS: np.zeros(shape, np.int32)} if self.order.classes in ("input", "inputs") else {}

    def _width(self) -> int:
        """A number of classes to try with."""
        shape = self._values()[self.order.scores].shape
        known = shape[1] if shape is not None and len(shape) > 1 else None
        return known if isinstance(known, int) else 1

    def _seed(self, pen: Pen, scores: ir.Value, rows: ir.Value, given: Sequence[ir.Value]) -> Tensor:
        """The gradient of the scores, shaped like them."""
        native, wide = pen.read(rows), score_rows(pen.read(rows))
        if self.order.target is None:
            whole = Tensor(pen, given[0], _FLOAT, (None,) * (2 + self.order.several))
            flat = whole.reshape(-1, wide.shape[1], shape=wide.shape) if self.order.several else whole
            return Tensor(pen, flat.value, _FLOAT, wide.shape).cast(native.dtype).like(native)
        classes = self._classes(pen, score_rows(pen.read(scores)), given)
        self._give("classes", CLASSES, classes)
        flat = classes.reshape(-1, 1, shape=(wide.shape[0], 1)) if self.order.several else classes
        return slopes(Seeds(wide, flat, alone=self.order.alone), self.order.target).like(native)

    def _classes(self, pen: Pen, scores: Tensor, given: Sequence[ir.Value]) -> Tensor:
        """The (N, T) classes explained."""
        if self.order.top > 1:
            return Tensor(pen, given[0], _WHOLE, (scores.shape[0], self.order.top))
        if given:
            shape = (scores.shape[0], None) if self.order.several else (scores.shape[0],)
            classes = Tensor(pen, given[0], ir.DataType.INT32, shape).cast(_WHOLE)
            return chosen_classes(pen, scores, classes if self.order.several else classes.unsqueeze(1))
        fixed = -1 if self.order.top == 1 else int(self.order.classes)
        best = pen.constant(np.array([[fixed]], np.int64))
        if fixed < 0:
            return chosen_classes(pen, scores, best)
        zeros = pen.op("ArgMax", scores, shape=(scores.shape[0], 1), dtype=_WHOLE, axis=1, keepdims=1)
        return best.expand(zeros)

    def _finish(self, i: int, pen: Pen, once: ir.Value, layer: ir.Value, gradient: Tensor) -> None:
        """What is given of one layer: features and gradients, or the map."""
        method, title = self.order.method, self.order.titles[i]
        bend = self._curvature(layer, gradient.expand(pen.read(layer))) if self.order.bends else None
        if method is None:
            self._give("features", once.name or "", Tensor(pen, once, pen.facts.dtype(once), pen.facts.shape(once)))
            self._give("gradients", f"gradient{title}", self._by_class(gradient, pen.read(layer)))
            if bend is not None:
                self._give("curvatures", f"curvature{title}", self._by_class(bend, pen.read(layer)))
            return
        layout, features = self.order.layouts[i], pen.read(once)
        parts = [
            self._by_class(part, pen.read(layer), layout.kind) for part in (gradient, *([] if bend is None else [bend]))
        ]
        maps = finish(method, places(features, layout), *(places(part, layout, lead=2) for part in parts))
        self._give("maps", f"cam{title}", spatial(maps, features, layout))

    def _by_class(self, gradient: Tensor, layer: Tensor, kind: str = "") -> Tensor:
        """(N, T, *native) of the rows."""
        gradient = (
            gradient.expand(layer) if self.order.full or not is_even(gradient.shape, layer.shape, kind) else gradient
        )
        if not self.order.several:
            return gradient.unsqueeze(1)
        pen, given = gradient.pen, self._given[0]
        shape = (None, self.order.top or None, *gradient.shape[1:])
        if self.order.top:
            rest = [gradient.length(a) if n is None else n for a, n in enumerate(gradient.shape)][1:]
            return gradient.reshape(-1, self.order.top, *rest, shape=shape)
        lengths = Tensor(pen, given, _FLOAT, (None,) * (2 + (self.order.target is None))).lengths()
        whole = pen.concat([lengths.slice(0, 0, 2), gradient.lengths().slice(0, 1, gradient.rank)], 0)
        return pen.op("Reshape", gradient, whole, shape=shape, dtype=gradient.dtype)

    def _curvature(self, layer: ir.Value, gradient: Tensor) -> Tensor:
        """The Hessian of the target times the features: the gradient of ``g . A``, A taken as fixed."""
        way = Way(self.graph, [gradient.value], [layer])
        if way.missing:
            explain_missing(way)
        facts = see(self.loaded, [*way.values, layer, gradient.value], self._runs())
        pen = Pen(self.graph, facts)
        pen.scope = "grad/curvature"
        features = pen.read(layer)
        if not Way(self.graph, [gradient.value], [layer], facts).nodes:
            return pen.zeros(features)
        return pull_back(Way(self.graph, [gradient.value], [layer], facts), {gradient.value: features}, pen)[layer]

    def _give(self, kind: str, name: str, tensor: Tensor) -> None:
        """Make a tensor an output, under a name of its own where it has another."""
        self.outputs.setdefault(kind, []).append(name)
        if tensor.value.name == name:
            if not tensor.value.is_graph_output():
                self.graph.outputs.append(tensor.value)
            return
        self._check_name(name)
        lengths: list[int | str | None] = list(tensor.shape)
        if lengths[0] is None:
            lengths[0] = "N"
        output = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(lengths))
        self.graph.append(ir.Node("", "Identity", [tensor.value], outputs=[output], name=f"grad/{name}"))
        self.graph.outputs.append(output)


def score_rows(scores: Tensor) -> Tensor:
    """Scores as (N, K), without axes of length one behind the classes."""
    if scores.rank < 2 or scores.shape[1] is None or any(n != 1 for n in scores.shape[2:]):
        raise MethodNotPossible(
            f"the scores {scores.value.name!r} have shape {scores.shape}; gradients are taken of (N, K) scores with a "
            "fixed number of classes"
        )
    return scores.squeeze(*range(2, scores.rank))


def spatial(maps: Tensor, features: Tensor, layout: Layout) -> Tensor:
    """(N, T, P) maps as (N, T, *S)."""
    if layout.kind == "tokens":
        space: list[int | Tensor] = list(layout.grid)
    else:
        axes = range(2, features.rank) if layout.kind == "first" else range(1, features.rank - 1)
        space = [features.length(a) if (n := features.shape[a]) is None else n for a in axes]
    lengths = [maps.length(a) if maps.shape[a] is None else maps.shape[a] for a in range(2)]
    if all(isinstance(n, int) for n in space):
        lengths[0] = -1
    if len(space) == 1 and isinstance(space[0], int):
        return maps
    shape = (*maps.shape[:2], *(n if isinstance(n, int) else None for n in space))
    return maps.reshape(*lengths, *space, shape=shape)
