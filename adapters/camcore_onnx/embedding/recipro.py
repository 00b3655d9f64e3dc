"""Recipro-CAM as nodes: the network behind a layer once more, shown the features of each position alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore.methods.ablation import kernel_weights
from camcore_onnx.embedding.site import Site
from camcore_onnx.gradients.facts import Feed
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.several import NotRepeatable, check_repeats, repeat_tail
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.tails import reached
from camcore_onnx.unfold.integers import whole_of

__all__ = ["kept", "kept_sums", "recipro_maps", "space_of"]

_TITLE = "cam/again"
_WHOLE = ir.DataType.INT64


def recipro_maps(site: Site, feeds: Sequence[Feed], *, kernel: str = "pixel") -> Tensor:
    """The (N, T, P) scores that the features of each position alone get; the library's ``reciprocam``.

    The nodes between the layer and the scores are appended once more, and read N * P rows. Row (n, u) has the features
    that image n has at position u, there and nowhere else, or spread over u and its neighbours.

    Parameters
    ----------
    site : Site
        Its graph is changed.
    feeds : sequence of dict
        Images to try with; see :func:`camcore_onnx.gradients.facts.probes`.
    kernel : {"pixel", "gaussian"}
        See :func:`camcore.methods.ablation.recipro_cam`.

    Returns
    -------
    (N, T, P) Tensor
        (N, K, P) where the site asks for all classes.

    Raises
    ------
    MethodNotPossible
        If the shapes of the network behind the layer hold the number of images, or nothing lies there.

    Notes
    -----
    All rows are there at once: the network behind the layer takes P times its memory and time. It costs the same for
    any number of classes. A free batch and a free size of the images stay free. The features of a position are
    multiplied by zeros elsewhere, so one that is infinite makes the scores of its row NaN, as in the library.
    """
    kernel_weights(kernel)  # or an error
    layer, logits = whole_of(site.layer), site.logits
    if layer is logits or logits not in reached(site.graph, [layer]):
        raise MethodNotPossible(f"nothing lies behind the layer {layer.name!r}: reciprocam is not possible there")
    try:
        check_repeats(site.loaded, [layer], logits, feeds)
    except NotRepeatable as error:
        raise MethodNotPossible(f"reciprocam is not possible at {layer.name!r}: {error}") from error
    alone = site.features.transpose(0, 2, 1)
    rows = _like(_native(site, alone, kernel), site.layer, layer)
    again = repeat_tail(site.loaded, [layer], logits, alone.value, shown={layer: rows.value}, title=_TITLE)
    return _chosen(site, again.scores, alone)


def _like(rows: Tensor, layer: ir.Value, whole: ir.Value) -> Tensor:
    """In the type of the layer; where the network reads the integers that it was made of, as these."""
    node = layer.producer()
    if whole is layer or node is None:
        return rows.cast(rows.pen.facts.dtype(layer))
    scale = [Tensor(rows.pen, v, v.dtype or ir.DataType.FLOAT, ()) for v in node.inputs[1:] if v is not None]
    dtype = whole.dtype or ir.DataType.UINT8
    return rows.pen.op("QuantizeLinear", rows, *scale, shape=rows.shape, dtype=dtype, domain=node.domain)


def space_of(native: Tensor, site: Site) -> list[int | Tensor]:
    """The spatial lengths of a layer: numbers, and tensors where they follow the images."""
    if site.layout.kind == "tokens":
        return list(site.layout.grid)
    axes = range(2, native.rank) if site.layout.kind == "first" else range(1, native.rank - 1)
    return [_length(native, axis) for axis in axes]


def kept(pen: Pen, space: Sequence[int | Tensor], kernel: str) -> Tensor:
    """(P, P): row u is what the features of position u are multiplied with at each position."""
    if kernel == "pixel":
        return _band(pen, _product(space), kernel)
    whole, *others = (_band(pen, length, kernel) for length in space)
    for one in others:
        grown = whole.unsqueeze(1, 3) * one.unsqueeze(0, 2)
        sides = [_product([whole.length(axis), one.length(axis)]) for axis in range(2)]
        shape = None if None in grown.shape else (math.prod(n or 0 for n in grown.shape[:2]),) * 2
        whole = grown.reshape(*sides, shape=shape or (None, None))
    return whole


def kept_sums(site: Site, kernel: str) -> Tensor:
    """(1, 1, P): how much of the features of a position is not cut off at the border."""
    first, *others = (_band(site.pen, length, kernel).sum(1, keep=False) for length in space_of(site.native, site))
    for one in others:
        grown = first.unsqueeze(1) * one.unsqueeze(0)
        first = grown.reshape(-1, shape=(None if None in grown.shape else math.prod(n or 0 for n in grown.shape),))
    return first.unsqueeze(0, 1)


def _product(lengths: Sequence[int | Tensor]) -> int | Tensor:
    fixed = math.prod(n for n in lengths if isinstance(n, int))
    total: int | Tensor = fixed
    for length in lengths:
        if isinstance(length, Tensor):
            total = length if total == 1 and not isinstance(total, Tensor) else length * total
    return total


def _band(pen: Pen, length: int | Tensor, kernel: str) -> Tensor:
    """(L, L): the window of each position along one axis."""
    fixed = length if isinstance(length, int) else None
    sides = pen.lengths([length, length])
    zeros = pen.op("ConstantOfShape", sides, shape=(fixed, fixed), value=ir.tensor(np.zeros(1, np.float32)))
    aside, own = kernel_weights(kernel)
    band = zeros.unary("EyeLike") * own
    return band + (zeros.unary("EyeLike", k=1) + zeros.unary("EyeLike", k=-1)) * aside if aside else band


def _native(site: Site, alone: Tensor, kernel: str) -> Tensor:
    """The rows (N * P, *native) of the (N, P, C) features, as the network holds them."""
    space, channels = space_of(site.native, site), _length(alone, 2)
    windows = kept(site.pen, space, kernel)
    known = [n if isinstance(n, int) else None for n in space]
    if site.layout.kind == "first":
        rows = alone.unsqueeze(3) * windows.unsqueeze(1)
        return rows.reshape(-1, channels, *space, shape=(None, alone.shape[2], *known))
    rows = alone.unsqueeze(2) * windows.unsqueeze(2)
    if site.layout.kind == "last":
        return rows.reshape(-1, *space, channels, shape=(None, *known, alone.shape[2]))
    tokens = site.layout.prefix + math.prod(site.layout.grid)
    return _with_prefix(site, rows).reshape(-1, tokens, channels, shape=(None, tokens, alone.shape[2]))


def _with_prefix(site: Site, rows: Tensor) -> Tensor:
    """Class and register tokens stay as they are, in front of the (N, P, P, C) tokens of the picture."""
    count, (positions, channels) = site.layout.prefix, rows.shape[2:]
    if not count:
        return rows
    front, times = site.native.slice(1, 0, count).unsqueeze(1), site.pen.lengths([1, _length(rows, 1), 1, 1])
    shape = (rows.shape[0], positions, count, channels)
    return site.pen.concat([site.pen.op("Expand", front, times, shape=shape), rows], 2)


def _length(tensor: Tensor, axis: int) -> int | Tensor:
    found = tensor.shape[axis]
    return tensor.length(axis) if found is None else found


def _chosen(site: Site, scores: ir.Value, alone: Tensor) -> Tensor:
    """(N, T, P) of the (N * P, K) scores."""
    pen, classes, known = site.pen, site.classes, site.scores.shape[1]
    rows = Tensor(pen, scores, pen.facts.dtype(site.logits), (None, *pen.facts.shape(site.logits)[1:]))
    wide = rows.cast(ir.DataType.FLOAT)
    positions = _length(alone, 1)
    table = wide.reshape(-1, positions, known or 0, shape=(*alone.shape[:2], known)).transpose(0, 2, 1)
    if classes is None:
        return table
    flat = table.reshape(-1, positions, shape=(None, alone.shape[1]))
    return flat.gather(classes + _first_rows(pen, classes, known or 0), 0)


def _first_rows(pen: Pen, classes: Tensor, count: int) -> Tensor:
    """(N, 1): where the classes of each image begin in a table of those of all images."""
    ones = pen.op(
        "ConstantOfShape", classes.length(0), shape=(classes.shape[0],), value=ir.tensor(np.ones(1, np.float32))
    )
    found = pen.op("NonZero", ones, shape=(1, classes.shape[0]), dtype=_WHOLE)
    return found.transpose(1, 0) * count
