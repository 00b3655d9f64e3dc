"""How the tensors of a graph hold their maps, and which tokens a network with a class token is explained by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from camcore.errors import HeadNotFound, InputError
from camcore.layout import Hop, Layout, channels_at, inverse, through_view, token_grid
from camcore.walk import channel_axis
from camcore_onnx.constants import Constants
from camcore_onnx.norms import averaged_axes, is_norm_step, layer_norm
from camcore_onnx.shapes import lengths_of, rank_of

__all__ = ["axis_of_channels", "layout_of", "token_features"]

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_COPIES = ("Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear")
_SPATIAL = (
    "Conv",
    "QLinearConv",
    "ConvTranspose",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LRN",
)
_MAP_POOLS = (
    *("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool", "MaxPool", "LpPool"),
    *("QLinearGlobalAveragePool", "QLinearAveragePool"),
)
_FUSED = ("SkipLayerNormalization", "RMSNormalization", "MultiHeadAttention")  # on the last axis
_PROJECTIONS = (*_VIEWS, *_COPIES, "Transpose", "Split", "Slice", "Gather", "Expand")
_UNDER_SOFTMAX = (*_COPIES, *_VIEWS, "Where", "Expand")


def layout_of(
    value: ir.Value,
    constants: Constants,
    *,
    grid: Sequence[int] | None = None,
    prefix: int | None = None,
    tokens: int | None = None,
    image: tuple[int, ...] | None = None,
) -> Layout:
    """How a tensor holds its maps.

    Parameters
    ----------
    value : ir.Value
        Of a graph whose shapes have been inferred.
    constants : Constants
    grid, prefix
        What the user says of tokens; found where absent.
    tokens : int, optional
        How many there are, as a run has shown, where the graph does not state it.
    image : tuple of int, optional
        Spatial lengths of the images of that run; what the graph states of its input where absent.

    Raises
    ------
    InputError
        If the grid of tokens cannot be told.
    """
    lengths = lengths_of(value)
    if len(lengths) < 3 or axis_of_channels(value, constants) != len(lengths) - 1:
        return Layout()
    if len(lengths) > 3:
        return Layout("last")
    if isinstance(lengths[1], int):
        tokens = lengths[1]
    elif grid is not None and prefix is not None:
        tokens = prefix + math.prod(grid)
    if tokens is None:
        raise InputError(
            f"the graph does not state the number of tokens of {value.name!r}; say how they lie: grid=(h, w), prefix=p"
        )
    size = _image_size(value) if image is None else image
    return Layout("tokens", *token_grid(tokens, _known_maps(value), prefix, grid, image=size))


def axis_of_channels(value: ir.Value, constants: Constants) -> int | None:
    """The axis with the channels; None where no operator near the tensor tells it."""
    graph = _Neighbours(constants)
    return channels_at(value, graph.before, graph.after)


def _image_size(value: ir.Value) -> tuple[int, ...]:
    """The spatial lengths of the graph's first input with maps, where they are fixed."""
    node = value.producer()
    graph = None if node is None else node.graph
    inputs = [] if graph is None else [v for v in graph.inputs if rank_of(v) >= 3]
    size = lengths_of(inputs[0])[2:] if inputs else ()
    fixed = tuple(n for n in size if isinstance(n, int))
    return fixed if len(fixed) == len(size) else ()


def _known_maps(value: ir.Value) -> Iterator[tuple[int, ...]]:
    """Spatial shapes met before a tensor: of convolutions, and of channels-last maps that are tokens in other shape."""
    last = value.producer()
    for node in _nodes_of(last):
        if node is last:
            return
        if node.op_type in ("Conv", "Reshape") and node.inputs[0] is not None:
            source, result = lengths_of(node.inputs[0]), lengths_of(node.outputs[0])
            shape = result[2:] if node.op_type == "Conv" else _as_map(*sorted((source, result), key=len))
            fixed = tuple(n for n in shape if isinstance(n, int))
            if fixed and len(fixed) == len(shape):
                yield fixed


def _nodes_of(node: ir.Node | None) -> list[ir.Node]:
    graph = None if node is None else node.graph
    return [] if graph is None else list(graph)


def _as_map(row: tuple[Any, ...], many: tuple[Any, ...]) -> tuple[Any, ...]:
    """The *S of an (N, *S, C) shape where the other is the (N, T, C) of the same; else empty."""
    space = many[1:-1]
    if len(row) != 3 or len(space) not in (2, 3) or row[-1] != many[-1] or not all(isinstance(n, int) for n in space):
        return ()
    alike = row[1] == math.prod(space) if isinstance(row[1], int) else row[0] == many[0] is not None
    return space if alike and 1 not in space else ()


class _Neighbours:
    """What the operators around a tensor tell of its axes; see :func:`camcore.layout.channels_at`."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants

    def before(self, value: ir.Value) -> Iterator[int | Hop[ir.Value]]:
        """From the operator that made the tensor."""
        node = value.producer()
        if node is None:
            return
        clue = self._clue(node, value)
        if clue is not None:
            yield clue
            return
        for source in node.inputs:
            if source is not None and not self.constants.is_constant(source):
                yield from self._hop(node, value, source, back=True)

    def after(self, value: ir.Value) -> Iterator[int | Hop[ir.Value]]:
        """From the operators that read the tensor."""
        for use in value.uses():
            clue = self._reduction_clue(use.node, value)
            clue = self._clue(use.node, value) if clue is None else clue
            if clue is not None:
                yield clue
                continue
            for result in use.node.outputs:
                yield from self._hop(use.node, value, result, back=False)

    def _clue(self, node: ir.Node, value: ir.Value) -> int | None:
        """The channel axis of what an operator gives, or takes: those that tell it treat both alike."""
        op = node.op_type
        if op in (*_SPATIAL, *_MAP_POOLS, "Gemm", "QGemm"):
            return rank_of(value) - 1 if node.attributes.get_int("channels_last", 0) else 1
        if op in _FUSED:
            return rank_of(value) - 1
        if op == "MatMul":
            fixed = [self.constants.is_constant(v) for v in node.inputs]
            return rank_of(value) - (1 if fixed[1] else 2) if any(fixed) and rank_of(value) > 1 else None
        norm = layer_norm(node, self.constants)
        return rank_of(value) - 1 if norm is not None and norm.over_last and rank_of(value) else None

    def _reduction_clue(self, node: ir.Node, value: ir.Value) -> int | None:
        """A mean over all axes but two leaves the batch and the channels."""
        axes = averaged_axes(node, self.constants, rank_of(value))
        if len(axes) != rank_of(value) - 2 or is_norm_step(node, axes, rank_of(value)):
            return None
        try:
            return channel_axis(node.op_type, sorted(axes), rank_of(value))
        except HeadNotFound:
            return None

    def _hop(self, node: ir.Node, value: ir.Value, other: ir.Value, *, back: bool) -> Iterator[Hop[ir.Value]]:
        here, there = lengths_of(value), lengths_of(other)
        if node.op_type == "Transpose":
            order = _order(node, len(here))
            yield Hop(other, order if back else inverse(order))
        elif node.op_type in _VIEWS:
            yield Hop(other, through_view(here, there))
        elif len(here) == len(there) and node.op_type not in ("MatMul", "Einsum", "Attention"):
            yield Hop(other, tuple(range(len(here))))


def _order(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes of a permutation: axis i of the result is that axis of the source."""
    given = node.attributes.get("perm")
    return tuple(reversed(range(rank))) if given is None else tuple(given.as_ints())


def token_features(output: ir.Value, constants: Constants) -> ir.Value | None:
    """The tokens that the last attention reads: what a network whose scores read a class token is explained by.

    Behind the last attention no other token than the class token reaches the scores, so that gradients vanish at the
    patches. Mostly this is what the first layer normalisation of the last block gives.

    Parameters
    ----------
    output : ir.Value
        With the class scores.
    constants : Constants

    Returns
    -------
    ir.Value or None
        An (N, T, C) tensor. None where a pooling over positions stands between the last attention and the scores
        (what it reads is right as it is), and where there is no attention.
    """
    wanted = {output}
    for node in reversed(_nodes_of(output.producer())):
        sources = [v for v in node.inputs if v is not None and not constants.is_constant(v)]
        if not sources or wanted.isdisjoint(node.outputs):
            continue
        if _pools(node, sources[0], constants):
            return None
        values = _attention_values(node, constants)
        if values is not None:
            return _token_source(values, constants)
        wanted.update(sources)
    return None


def _pools(node: ir.Node, data: ir.Value, constants: Constants) -> bool:
    """Whether positions are joined by a mean, a sum or a maximum."""
    if node.op_type in _MAP_POOLS:
        return True
    axes = averaged_axes(node, constants, rank_of(data))
    return rank_of(data) >= 3 and bool(axes) and not is_norm_step(node, axes, rank_of(data))


def _attention_values(node: ir.Node, constants: Constants) -> ir.Value | None:
    """The values (third operand) of an attention, in one operator or as ``softmax(...) @ values``; else None."""
    if node.op_type in ("Attention", "MultiHeadAttention"):
        packed = node.domain == "com.microsoft" and (node.op_type == "Attention" or len(node.inputs) < 3)
        return node.inputs[0 if packed else 2] or node.inputs[0]
    if node.op_type != "MatMul" or any(constants.is_constant(v) for v in node.inputs):
        return None
    return node.inputs[1] if _from_softmax(node.inputs[0]) else None


def _from_softmax(value: ir.Value | None) -> bool:
    """Whether nothing but reshapes, casts and a guard against NaN stand between a softmax and a tensor."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _UNDER_SOFTMAX:
        source = node.inputs[-1 if node.op_type == "Where" else 0]
        node = None if source is None else source.producer()
    return node is not None and node.op_type == "Softmax"


def _token_source(value: ir.Value, constants: Constants) -> ir.Value | None:
    """What the values of an attention are projected from."""
    at: ir.Value | None = value
    while at is not None:
        value, at = at, _projected(at, constants)
    return value if _is_row(value) else _nearest_norm(value, constants)


def _projected(value: ir.Value, constants: Constants) -> ir.Value | None:
    """What a projection made a tensor of: a matrix with its bias, a reshape, a part; else None."""
    node = value.producer()
    if node is None:
        return None
    fixed = [constants.is_constant(v) for v in node.inputs]
    if node.op_type in _PROJECTIONS or (node.op_type in ("MatMul", "Gemm") and fixed[1]):
        return node.inputs[0]
    if node.op_type == "Add" and any(fixed):
        data = node.inputs[1 if fixed[0] else 0]
        return data if data is not None and _is_product(data) else None
    return None


def _is_product(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in (*_VIEWS, *_COPIES) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in ("MatMul", "Gemm")


def _is_row(value: ir.Value) -> bool:
    """(N, T, C), with the batch in front."""
    node, lengths = value.producer(), lengths_of(value)
    if node is None or node.graph is None or len(lengths) != 3:
        return False
    batch = next((lengths_of(v)[0] for v in node.graph.inputs if rank_of(v) >= 3), None)
    return not isinstance(lengths[0], int) or lengths[0] == batch


def _nearest_norm(value: ir.Value, constants: Constants) -> ir.Value | None:
    """The last normalised row of tokens that a tensor comes from, where a network pools or mixes on the way to it."""
    wanted = {value}
    for node in reversed(_nodes_of(value.producer())):
        if not wanted.isdisjoint(node.outputs):
            if layer_norm(node, constants) is not None and _is_row(node.outputs[0]):
                return _with_affine(node.outputs[0], constants)
            wanted.update(v for v in node.inputs if v is not None)
    return None


def _with_affine(value: ir.Value, constants: Constants) -> ir.Value:
    """Behind the factor and the shift, where these are operators of their own."""
    for op in ("Mul", "Add"):
        users = [use.node for use in value.uses()]
        if len(users) == 1 and users[0].op_type == op and any(constants.is_constant(v) for v in users[0].inputs):
            value = users[0].outputs[0]
    return value
