"""A copy of a model that a map is written into: where the features and the scores are, and a pen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.layout import Layout
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.constants import Constants
from camcore_onnx.gradients.build import score_rows
from camcore_onnx.gradients.facts import Facts, probes, see
from camcore_onnx.gradients.finish import places
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Lengths, Tensor
from camcore_onnx.reading.load import Loaded
from camcore_onnx.shapes import lengths_of
from camcore_onnx.surgery import free_copy, remove_unread

__all__ = ["Site", "check_free", "give", "image_size", "open_site", "site_of", "weight_of"]

SCOPE = "cam"
_KINDS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(eq=False)
class Site:
    """A graph that is written into.

    Attributes
    ----------
    loaded : Loaded
        Its graph is changed.
    pen : Pen
    layer, logits, image : ir.Value
        Of that graph: the features as the network holds them, the scores before a final softmax, the input.
    layout : Layout
        How ``layer`` holds its maps.
    classes : Tensor or None
        (N, T) int64, the classes to explain; None for all of them, in their order.
    class_scores : Tensor or None
        (N, T), where they came with the classes.
    """

    loaded: Loaded
    pen: Pen
    layer: ir.Value
    logits: ir.Value
    image: ir.Value
    layout: Layout
    classes: Tensor | None = None
    class_scores: Tensor | None = None

    @property
    def graph(self) -> ir.Graph:
        return self.loaded.model.graph

    def prune(self) -> None:
        """Remove what was written and is not read after all; runtimes would warn of it."""
        remove_unread(self.graph, (f"{SCOPE}/",))

    @cached_property
    def native(self) -> Tensor:
        """The features as the network holds them, at least in float32."""
        return _read(self.pen, self.layer)

    @cached_property
    def features(self) -> Tensor:
        """(N, C, P)."""
        return places(self.native, self.layout)

    @cached_property
    def scores(self) -> Tensor:
        """(N, K) float32."""
        return score_rows(_read(self.pen, self.logits)).cast(ir.DataType.FLOAT)


def _read(pen: Pen, value: ir.Value) -> Tensor:
    """A tensor of the graph, half precision as float32, so that no number changes that the model computes anyhow.

    On the CPU ONNX Runtime computes half precision in float32, and does not even round what goes from one operator to
    another, unless one of its readers takes half precision as it is, like a Cast. A product is computed as the others
    are: so half of each number is read, which is exact but for numbers below 1e-4, and doubled again.
    """
    dtype = pen.facts.dtype(value)
    if dtype != ir.DataType.FLOAT16 or value.is_graph_output():
        return pen.read(value)
    tensor = Tensor(pen, value, dtype, pen.facts.shape(value))
    half = pen.op("Mul", tensor, np.array(0.5, np.float16), shape=tensor.shape, dtype=dtype)
    return half.cast(ir.DataType.FLOAT) * 2.0


def open_site(backend: OnnxBackend, loaded: Loaded, layer: str | None, size: tuple[int, ...] | None = None) -> Site:
    """A copy of ``loaded`` (the backend's model, perhaps in another opset) to write the map of a layer into.

    Parameters
    ----------
    backend : OnnxBackend
    loaded : Loaded
        Not changed.
    layer : str, optional
        The features that the head reads where absent.
    size : tuple of int, optional
        A size (H, W) of images that the model takes.
    """
    copy = replace(loaded, model=free_copy(loaded.model))
    values = _values(copy)
    features, logits = values[backend.value(layer).name], values[backend.found.logits.name]
    facts = _stated(copy, features, logits, backend)
    if facts is None:
        facts = see(copy, [features, logits], probes(copy, backend.input, size))
    return site_of(backend, copy, facts, backend.layout(layer, size), layer)


def site_of(backend: OnnxBackend, loaded: Loaded, facts: Facts, layout: Layout, layer: str | None = None) -> Site:
    """A graph that is a copy already, to write into as it is."""
    values, pen = _values(loaded), Pen(loaded.model.graph, facts)
    pen.scope = SCOPE
    named = (backend.value(layer).name, backend.found.logits.name, backend.input.name)
    features, logits, image = (values[name] for name in named)
    return Site(loaded, pen, features, logits, image, layout)


def _values(loaded: Loaded) -> dict[str | None, ir.Value]:
    graph = loaded.model.graph
    return {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}


def check_free(site: Site, name: str) -> None:
    """Raise where a tensor has the name that a new one is to get."""
    if name in _values(site.loaded) or name in site.graph.initializers:
        raise InputError(f"the model has a tensor called {name!r} already; choose another name for the map")


def give(site: Site, name: str, tensor: Tensor) -> None:
    """Make a tensor an output under a name of its own.

    Raises
    ------
    InputError
        If the name is taken.
    """
    graph = site.graph
    check_free(site, name)
    batch = lengths_of(site.image)[:1] or ("N",)
    lengths: list[int | str | None] = list(tensor.shape)
    lengths[0] = lengths[0] or batch[0] or "N"
    output = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(lengths))
    graph.append(ir.Node("", "Identity", [tensor.value], outputs=[output], name=f"{SCOPE}/{name}"))
    graph.outputs.append(output)


def image_size(site: Site) -> list[int | Tensor]:
    """The spatial lengths of the image: numbers where they are fixed."""
    stated = lengths_of(site.image)
    image = Tensor(site.pen, site.image, ir.DataType.FLOAT, _known(stated))
    return [n if isinstance(n, int) else image.length(axis) for axis, n in enumerate(stated) if axis > 1]


def _stated(loaded: Loaded, features: ir.Value, logits: ir.Value, backend: OnnxBackend) -> Facts | None:
    """What the graph says of its shapes, where that is enough: a large model is then never run."""
    head = backend.found.head
    if head is None or any(v.dtype is None or v.shape is None for v in (features, logits)):
        return None
    facts = Facts(Constants(loaded))
    facts.types = {v: v.dtype for v in (features, logits) if v.dtype is not None}
    facts.shapes = {features: _known(lengths_of(features)), logits: _known(lengths_of(logits))}
    rows = facts.shapes[logits]
    if rows[1:2] == (None,):
        facts.shapes[logits] = (rows[0], head.classes, *rows[2:])
    return facts if _is_enough(facts.shapes[logits]) else None


def _known(lengths: Sequence[Any]) -> Lengths:
    return tuple(n if isinstance(n, int) else None for n in lengths)


def _is_enough(rows: Lengths) -> bool:
    return len(rows) > 1 and all(n == 1 for n in rows[2:])


def weight_of(site: Site, weight: NDArray[Any]) -> Tensor:
    """A (K, C) matrix as a tensor: of the initializer that holds it already, where there is one, else a new one."""
    for value in list(site.graph.initializers.values()):
        array = _matrix(value, weight.shape)
        if array is None:
            continue
        assert value.const_value is not None  # it is an array
        stored = Tensor(site.pen, value, value.const_value.dtype, array.shape).cast(ir.DataType.FLOAT)
        matrix = stored if array.ndim == 2 else stored.reshape(*array.shape[:2])
        if matrix.shape == weight.shape and np.array_equal(array.reshape(weight.shape), weight):
            return matrix
        if matrix.shape == weight.T.shape and np.array_equal(array.reshape(weight.T.shape), weight.T):
            return matrix.transpose(1, 0)
    return site.pen.constant(weight, ir.DataType.FLOAT)


def _matrix(value: ir.Value, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """A stored matrix, or kernel of 1x1, of a shape or the turned one."""
    stored = value.const_value
    if stored is None or value.is_graph_input() or stored.dtype not in _KINDS:
        return None
    lengths = tuple(stored.shape)
    fits = lengths[:2] in (shape, shape[::-1]) and all(n == 1 for n in lengths[2:])
    return stored.numpy() if fits else None
