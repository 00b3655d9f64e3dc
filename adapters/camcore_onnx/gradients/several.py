"""Several classes of one image: the network behind the layers once more, with a row for each class."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.facts import Feed
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.runtime import make_session
from camcore_onnx.tails import crossing, reached, sources

__all__ = ["Again", "NotRepeatable", "check_repeats", "check_rows", "repeat_tail"]

_CLOSE = 1e-3  # how closely a second tail must give the scores of the first


class NotRepeatable(MethodNotPossible):
    """The network behind some layers cannot run for several classes of an image at once."""


@dataclass(frozen=True, eq=False)
class Again:
    """A second tail in the graph, on N * T rows: one for each image and class.

    Attributes
    ----------
    scores : ir.Value
    layers : tuple of ir.Value
    """

    scores: ir.Value
    layers: tuple[ir.Value, ...]


def repeat_tail(
    loaded: Loaded,
    layers: Sequence[ir.Value],
    scores: ir.Value,
    classes: ir.Value,
    *,
    shown: Mapping[ir.Value, ir.Value] | None = None,
    title: str = "again",
) -> Again:
    """Append the nodes between some layers and the scores once more, reading each image's tensors T times.

    Parameters
    ----------
    loaded : Loaded
        Its graph is changed.
    layers : sequence of ir.Value
    scores : ir.Value
    classes : ir.Value
        (N, T, ...) of any type; only the first two lengths are read.
    shown : mapping, optional
        For layers: N * T rows that the copy reads in their place.
    title : str
        What the names of the copies begin with.

    Raises
    ------
    NotRepeatable
        Where the tail has loops or branches.

    Notes
    -----
    Where the model takes a fixed number of images, a Reshape to that many rows is one to any number in the copy.
    Whether that was meant, and whether shapes hold the number elsewhere, :func:`check_rows` tells.
    """
    graph = loaded.model.graph
    first = [v for v in layers if v not in _behind_others(graph, v, layers)]
    stops = [*first, *crossing(loaded, first, scores)]
    tail = list(_between(graph, stops, scores))
    copies = {v: shown[v] for v in stops if shown and v in shown}
    if missing := [v for v in stops if v not in copies]:
        rows = _rows(graph, classes, title)
        copies |= {v: _gather(graph, v, rows, title) for v in missing}
    batch = _fixed_batch(graph)
    for node in tail:
        _copy(graph, node, copies, title)
        if batch is not None and node.op_type == "Reshape":
            _free(graph, copies[node.outputs[0]].producer(), batch)
    return Again(copies[scores], tuple(copies[v] for v in layers))


def check_rows(loaded: Loaded, scores: ir.Value, again: ir.Value, feeds: Sequence[Feed]) -> None:
    """Run a model, and see whether the second tail gives the scores of the first.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    scores, again : ir.Value
        Of its graph.
    feeds : sequence of dict

    Raises
    ------
    NotRepeatable
        If it does not, or ONNX Runtime cannot run it.
    """
    copy = loaded.model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs}
    names = [scores.name or "", again.name or ""]
    copy.graph.outputs[:] = [values[name] for name in names]
    session = make_session(copy, device="cpu", optimization="disabled", folder=loaded.folder)
    for feed in feeds:
        try:
            once, found = session.run(names, dict(feed))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NotRepeatable(_refusal((str(error).strip().splitlines() or [repr(error)])[0][:300])) from error
        if not _same_rows(found, once):
            raise NotRepeatable(_refusal(f"the scores of shape {once.shape} become others, of shape {found.shape}"))


def check_repeats(loaded: Loaded, layers: Sequence[ir.Value], scores: ir.Value, feeds: Sequence[Feed]) -> None:
    """See whether a second tail, with other numbers of rows than there are images, gives the scores of the first.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    layers : sequence of ir.Value
    scores : ir.Value
        Of its graph.
    feeds : sequence of dict

    Raises
    ------
    NotRepeatable
        As :func:`repeat_tail` and :func:`check_rows`.
    """
    copy = replace(loaded, model=loaded.model.clone())
    graph = copy.model.graph
    values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    asked = ir.Value(name="again/asked", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["rows", "times"]))
    graph.inputs.append(asked)
    again = repeat_tail(copy, [values[v.name] for v in layers], values[scores.name], asked)
    counts = ((len(next(iter(feed.values()))), 2 + i) for i, feed in enumerate(feeds))
    tries = [{**feed, "again/asked": np.zeros(n, np.float32)} for feed, n in zip(feeds, counts, strict=True)]
    check_rows(copy, values[scores.name], again.scores, tries)


def _refusal(why: str) -> str:
    return (
        "the network behind the layer does not run with several rows for an image, so its shapes hold the number of "
        f"images: {why}. Explain one class at a time, or export it again with a free batch"
    )


def _same_rows(again: NDArray[Any], scores: NDArray[Any]) -> bool:
    count = len(again) // len(scores)
    if again.shape != (len(scores) * count, *scores.shape[1:]):
        return False
    expected = np.repeat(scores, count, axis=0).astype(np.float64)
    scale = np.abs(expected).max(initial=0.0)
    with np.errstate(invalid="ignore"):  # scores may be infinite
        return bool(np.isclose(again, expected, rtol=0, atol=_CLOSE * scale, equal_nan=True).all())


def _behind_others(graph: ir.Graph, layer: ir.Value, layers: Sequence[ir.Value]) -> set[ir.Value]:
    return reached(graph, [v for v in layers if v is not layer])


def _between(graph: ir.Graph, stops: Collection[ir.Value], scores: ir.Value) -> Iterator[ir.Node]:
    """The nodes that the scores are made by, from some tensors on, in the order of the graph."""
    wanted, members = {scores}, set()
    for node in reversed(list(graph)):
        if any(v in wanted and v not in stops for v in node.outputs):
            members.add(node)
            wanted.update(sources(node))
    changed = reached(graph, stops)
    yield from [n for n in graph if n in members and any(v in changed for v in n.outputs)]


def _fixed_batch(graph: ir.Graph) -> int | None:
    """How many images the model takes, where that is fixed."""
    images = [v for v in graph.inputs if v.name not in graph.initializers and v.shape is not None and len(v.shape) > 2]
    batch = images[0].shape[0] if images and images[0].shape is not None else None
    return batch if isinstance(batch, int) else None


def _free(graph: ir.Graph, node: ir.Node | None, batch: int) -> None:
    """Let a Reshape to ``batch`` rows take any number: the one that is left over, or the one that it reads."""
    stored = None if node is None or node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
    lengths = [] if stored is None else stored.numpy().reshape(-1).tolist()
    if node is None or lengths[:1] != [batch]:
        return
    lengths[0] = 0 if -1 in lengths else -1
    node.replace_input_with(1, _store(graph, f"{node.name}/lengths", np.array(lengths)))


def _rows(graph: ir.Graph, classes: ir.Value, title: str) -> ir.Value:
    """To which image each of the N * T rows belongs: 0, 0, 1, 1, ..."""
    title = f"{title}/rows"
    first, zero = _store(graph, f"{title}/first", np.arange(2)), _store(graph, f"{title}/zero", np.array(0))
    whole = _append(graph, f"{title}/Shape", "Shape", [classes])
    lengths = _append(graph, f"{title}/shape", "Gather", [whole, first], axis=0)
    one = ir.tensor(np.ones(1, np.float32))
    ones = _append(graph, f"{title}/ConstantOfShape", "ConstantOfShape", [lengths], value=one)
    places = _append(graph, f"{title}/NonZero", "NonZero", [ones])
    return _append(graph, f"{title}/Gather", "Gather", [places, zero], axis=0)


def _store(graph: ir.Graph, name: str, numbers: NDArray[np.int64]) -> ir.Value:
    stored = ir.tensor(numbers.astype(np.int64), name=name)
    value = ir.Value(name=name, const_value=stored, type=ir.TensorType(stored.dtype), shape=ir.Shape(numbers.shape))
    graph.register_initializer(value)
    return value


def _gather(graph: ir.Graph, value: ir.Value, rows: ir.Value, title: str) -> ir.Value:
    repeated = _append(graph, f"{title}/{value.name}", "Gather", [value, rows], axis=0)
    repeated.type = value.type
    return repeated


def _append(graph: ir.Graph, name: str, kind: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
    output = ir.Value(name=name)
    graph.append(ir.Node("", kind, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=name))
    return output


def _copy(graph: ir.Graph, node: ir.Node, copies: dict[ir.Value, ir.Value], title: str) -> None:
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        raise NotRepeatable(
            f"the network behind the layer holds {node.op_type} {node.name!r}, a branch or a loop, so that it cannot "
            "run for several classes at once; explain one class at a time"
        )
    inputs = [None if v is None else copies.get(v, v) for v in node.inputs]
    outputs = [ir.Value(name=f"{title}/{v.name}" if v.name else "", type=v.type) for v in node.outputs]
    name = f"{title}/{node.name or node.outputs[0].name}"
    copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=name)
    copy.metadata_props.update(node.metadata_props)
    graph.append(copy)
    copies.update(zip(node.outputs, outputs, strict=True))
