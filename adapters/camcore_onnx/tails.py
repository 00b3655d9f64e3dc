"""The rest of the network behind a layer, as a session of its own: from features to scores, without the trunk."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError, MethodNotPossible
from camcore.evidence import InputSpec
from camcore.layout import Layout
from camcore_onnx.axes import Axes
from camcore_onnx.heads import Found
from camcore_onnx.ports import NUMPY_TYPES
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.running.sessions import Runner, Watcher, as_rows
from camcore_onnx.unfold.integers import read_again, whole_of

__all__ = ["Split", "Tail", "TailSession", "crossing", "reached", "sources", "split", "tails_of"]

Floats = NDArray[np.floating[Any]]
_FLOATS = {"FLOAT": 1e-4, "DOUBLE": 1e-4, "FLOAT16": 2e-2}  # and how closely a tail must reproduce the scores
_BATCH = 7919  # a prime, so that no other axis has this length by chance
_QUANTISED = 5e-2  # one number on the edge of a step moves the scores by some steps in 256


@dataclass(frozen=True, eq=False)
class Split:
    """A tail: ``model`` takes the features first and then the ``crossing`` tensors, and gives the scores."""

    model: ir.Model
    crossing: tuple[ir.Value, ...]


def split(loaded: Loaded, value: ir.Value, logits: ir.Value) -> Split:
    """Cut the graph at ``value`` and keep what stands between it and the scores.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    value : ir.Value
        The features, a floating tensor of the model.
    logits : ir.Value

    Returns
    -------
    Split
        With a free batch axis. Crossing tensors are those that the tail reads, and that depend on the image but not
        on ``value``: skip connections, a class token. Each is the last floating tensor with a leading batch axis on
        its way; numbers such as shapes are computed of these inside. Weights in external files stay there.

    Raises
    ------
    MethodNotPossible
        If ``value`` holds no floats, or no way leads from it to the scores.
    """
    graph = loaded.model.graph
    if value.dtype is None or value.dtype.name not in _FLOATS:
        kind = "of an unknown type" if value.dtype is None else f"of type {value.dtype.name.lower()}"
        raise MethodNotPossible(f"the layer {value.name!r} is {kind}; its features cannot be changed: take another")
    whole = whole_of(value)
    behind = reached(graph, [whole])
    if logits is value or logits not in behind:
        why = "are that layer" if logits is value else "do not depend on it"
        raise MethodNotPossible(f"nothing lies behind the layer {value.name!r}: the scores {why}; take another")
    others = tuple(crossing(loaded, [whole], logits))
    part = _extracted(loaded, [value, *others], logits)
    _free_the_batch(part)
    return Split(ir.Model(part, ir_version=max(loaded.model.ir_version, 4)), others)


def _extracted(loaded: Loaded, inputs: Sequence[ir.Value], logits: ir.Value) -> ir.Graph:
    """What stands between; where integers are read of which the first input is what they mean, that is quantised."""
    graph = loaded.model.graph
    if whole_of(inputs[0]) is inputs[0]:
        return ir.convenience.extract(graph, inputs=list(inputs), outputs=[logits])
    copy = loaded.model.clone().graph
    values = {v.name: v for v in (*copy.inputs, *(v for node in copy for v in node.outputs))}
    read_again(copy, values[inputs[0].name])
    return ir.convenience.extract(copy, inputs=[values[v.name] for v in inputs], outputs=[values[logits.name]])


def reached(graph: ir.Graph, start: Iterable[ir.Value]) -> set[ir.Value]:
    """The values that depend on ``start``, and these; the nodes are in order."""
    reached = set(start)
    for node in graph:
        if any(source in reached for source in sources(node)):
            reached.update(node.outputs)
    return reached


def sources(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what the graphs inside it read of the one around."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        inner: Iterable[ir.Graph] = ()
        if attribute.type == ir.AttributeType.GRAPH:
            inner = (attribute.as_graph(),)
        elif attribute.type == ir.AttributeType.GRAPHS:
            inner = attribute.as_graphs()
        for graph in inner:
            for member in ir.traversal.RecursiveGraphIterator(graph):
                yield from (v for v in member.inputs if v is not None)


def crossing(loaded: Loaded, layers: Sequence[ir.Value], logits: ir.Value) -> list[ir.Value]:
    """What the network behind some layers reads of the image besides them; see :class:`Split`."""
    graph = loaded.model.graph
    behind = reached(graph, layers)
    images = [v for v in graph.inputs if v.name not in graph.initializers]
    from_image = reached(graph, images)
    batched = _batched(loaded, images[0]) if images else set()
    found: list[ir.Value] = []
    stack, seen = [logits], set(layers)
    while stack:
        at = stack.pop()
        if at in seen or at not in from_image:
            continue
        seen.add(at)
        node = at.producer()
        if node is None or (at not in behind and at.name in batched):
            found.append(at)
        else:
            stack += sources(node)
    return found


def _batched(loaded: Loaded, image: ir.Value) -> set[str | None]:
    """The names of the floating tensors with a leading batch axis.

    A free axis is tried with a number, which onnx can follow further than a name: through computed shapes.
    """
    graph, batch = loaded.model.graph, image.shape[0] if image.shape else None
    if not isinstance(batch, int):
        copy, batch = loaded.model.clone(), _BATCH
        graph = copy.graph
        _free_the_batch(graph, batch)
        infer_shapes(copy)
    values = (v for node in graph for v in node.outputs if v.dtype is not None and v.dtype.name in _FLOATS)
    return {v.name for v in values if v.shape and v.shape[0] == batch}


def _free_the_batch(graph: ir.Graph, batch: str | int = "camcore/batch") -> None:
    """What the model states of sizes may hold for its own batch alone; runtimes find out for themselves."""
    shapes = [(v, v.shape) for v in (*graph.inputs, *graph.outputs)]
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for output in node.outputs:
            output.shape = None
    for value, shape in shapes:
        if shape and value.name not in graph.initializers:
            value.shape = ir.Shape([batch, *list(shape)[1:]])


class TailSession:
    """Scores from the features of a layer; safe for threads.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    found : Found
    value : ir.Value
        The features.
    **options
        For :func:`camcore_onnx.running.runtime.make_session`.

    Attributes
    ----------
    crossing : tuple of str
        The tensors of the full model that the tail reads besides its features.
    watched : tuple of ir.Value
        What to fetch from the full model: the features, and these tensors but for its input.

    Raises
    ------
    MethodNotPossible
        If there is no such tail; see :func:`split`.
    """

    def __init__(self, loaded: Loaded, spec: InputSpec, found: Found, value: ir.Value, **options: Any) -> None:
        part = split(loaded, value, found.logits)
        self.value = value
        self.crossing = tuple(v.name or "" for v in part.crossing)
        self.watched = (value, *(v for v in part.crossing if v.producer() is not None))
        self._scores = found.logits.name or ""
        self._types = {v.name: NUMPY_TYPES[v.dtype.name] for v in (value, *part.crossing) if v.dtype is not None}
        self._limit = max(_limits(part.model.graph))
        self._runner = Runner(part.model, "features", folder=loaded.folder, **options)
        self._own_batch = spec.shape[0] or 1
        self._batch: int | None = self._own_batch
        self._checking = threading.Lock()
        self.checked = False

    def __call__(self, features: Floats, crossing: Mapping[str, Floats]) -> Floats:
        """(M, K) float32 scores of (M, ...) features of one image, axes as in the model.

        ``crossing`` are the image's own tensors by name, (1, ...) each, or (M, ...).
        """
        return self._run(features, crossing, self._batch)

    def check(self, features: Floats, crossing: Mapping[str, Floats], scores: Floats) -> None:
        """Once: the tail must give the (N, K) scores that the model has given for the same N images.

        Raises
        ------
        MethodNotPossible
            With the largest difference.
        """
        with self._checking:
            if self.checked:
                return
            self._check_rows({self.value.name or "": features, **crossing}, len(scores))
            try:
                self._batch = self._possible_batch(features, crossing)
                found = self(features, crossing)
            except InputError as error:
                raise MethodNotPossible(f"the tail behind {self.value.name!r} does not run alone: {error}") from error
            self._compare(found, scores, f"the tail behind {self.value.name!r} does not reproduce the model's scores")
            self.checked = bool(features.any())  # zeros would prove nothing

    def _check_rows(self, tensors: Mapping[str, NDArray[Any]], count: int) -> None:
        for name, tensor in tensors.items():
            if len(tensor) != count:
                raise MethodNotPossible(
                    f"{name!r} has shape {tensor.shape} for {count} images: it has no batch axis in front, so the "
                    f"network cannot be cut at {self.value.name!r}; take another layer"
                )

    def _run(self, features: Floats, crossing: Mapping[str, Floats], batch: int | None) -> Floats:
        feed = {self.value.name or "": features.astype(self._types[self.value.name], copy=False)}
        for name in self.crossing:
            rows = crossing[name].astype(self._types[name], copy=False)
            feed[name] = np.broadcast_to(rows, (len(features), *rows.shape[1:]))
        return as_rows(self._runner([self._scores], feed, batch=batch)[0], self._scores)

    def _possible_batch(self, features: Floats, crossing: Mapping[str, Floats]) -> int | None:
        """None where two at once give what each gives alone; else the model's own, which its shapes may hold."""
        own = self._own_batch
        if not features[0].any():  # all batches of zeros are alike
            return own
        pair = np.concatenate([features[:1], features[:1] / 2])
        image = {name: rows[:1] for name, rows in crossing.items()}
        alone = np.concatenate([self._run(one, image, own) for one in (pair[:1], pair[1:])])
        try:
            self._compare(self._run(pair, image, None), alone, "a batch of two")
        except (InputError, MethodNotPossible):
            return own
        return None

    def _compare(self, found: Floats, scores: Floats, what: str) -> None:
        if found.shape != scores.shape:
            raise MethodNotPossible(f"{what}: they have shape {found.shape}, expected {scores.shape}")
        with np.errstate(invalid="ignore"):  # inf - inf; NaN is refused below
            difference = np.abs(found - scores)
        scale = np.abs(scores).max(axis=1, keepdims=True, initial=0.0)
        if not (difference <= self._limit * scale).all():
            raise MethodNotPossible(
                f"{what}: they differ by up to {float(np.max(difference)):.3g}, with scores up to "
                f"{float(scale.max()):.3g}. So changed features would not show what the model makes of them; take "
                "another layer, or a method that needs no runs of the tail"
            )


def _limits(graph: ir.Graph) -> Iterator[float]:
    """How closely each operator reproduces what it gave before."""
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        if value.dtype is not None and value.dtype.name in _FLOATS:
            yield _FLOATS[value.dtype.name]
    if any(node.op_type.startswith(("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm")) for node in graph):
        yield _QUANTISED


@dataclass(frozen=True, eq=False)
class Tail:
    """The tail for one image: (M, C, *S) features -> (M, K) float32 scores.

    ``like`` are the image's own features, (1, ...) with axes as in the model, of which tokens in front are taken.
    """

    session: TailSession
    crossing: Mapping[str, Floats]
    layout: Layout
    like: Floats

    def __call__(self, features: Floats) -> Floats:
        return self.session(self.layout.native(features, self.like), self.crossing)


def tails_of(images: Floats, session: TailSession, watcher: Watcher, axes: Axes) -> list[Tail]:
    """One tail an image; ``watcher`` watches what the session names.

    The model is run once, and not at all where nothing crosses but the images, the tail has been checked, and the
    features are no tokens.
    """
    seen: dict[str, Floats] = {}
    if len(session.watched) > 1 or not session.checked or axes.is_row(session.value):
        scores, seen = watcher.fetch(images, [v.name or "" for v in session.watched])
    crossing = {name: seen.get(name, images) for name in session.crossing}
    native = seen.get(session.value.name or "", images)  # only of tokens more than the type counts
    if not session.checked:
        session.check(native, crossing, scores)
    layout = axes.of(session.value, native.shape[1], images.shape[2:])
    rows = [slice(i, i + 1) for i in range(len(images))]
    return [Tail(session, {n: t[row] for n, t in crossing.items()}, layout, native[row]) for row in rows]
