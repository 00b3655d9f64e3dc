"""How the values of a forward pass hold their maps, and which tokens a network with a class token is explained by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from camcore.errors import HeadNotFound, InputError
from camcore.layout import Hop, Layout, channels_at, inverse, through_view, token_grid
from camcore.walk import channel_axis
from camcore_torch.record import Call, Recorder

__all__ = ["check_tokens", "layout_of", "token_features"]

_VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_copy", "flatten", "squeeze", "unsqueeze", "unflatten")
_PERMUTES = ("permute", "transpose", "t")
_MATRICES = ("addmm", "mm", "linear", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_PRODUCTS = ("bmm", "baddbmm", "matmul")
_SPATIAL = ("conv", "batch_norm", "group_norm", "instance_norm", "pool", "upsample", "pixel_")
_ATTENTION = ("_scaled_dot_product", "scaled_dot_product_attention", "_native_multi_head_attention")
_LAYERS = ("_transformer_encoder_layer_fwd",)
_SOFTMAX = ("_softmax", "_safe_softmax", "softmax")
_SHAPES = (*_VIEWS, *_PERMUTES, "clone", "alias", "detach", "expand", "contiguous", "_to_copy", "native_dropout")
_PROJECTIONS = (*_SHAPES, "select", "slice", "unbind", "split", "split_with_sizes", "chunk", "roll", "constant_pad_nd")


def check_tokens(grid: Any, prefix: Any) -> None:
    """Refuse what is no grid of tokens, and no number of tokens in front of it.

    Raises
    ------
    InputError
    """
    axes = isinstance(grid, Sequence) and len(grid) > 0 and all(_is_count(n, 1) for n in grid)
    if grid is not None and not axes:
        raise InputError(f"grid is {grid!r}; expected how many tokens lie along each axis of the picture: (14, 14)")
    if prefix is not None and not _is_count(prefix, 0):
        raise InputError(f"prefix is {prefix!r}; expected how many tokens come before those of the picture, 0 or more")


def layout_of(
    record: Recorder, value: int, *, grid: Sequence[int] | None = None, prefix: int | None = None, start: int = 0
) -> Layout:
    """How a value of a fully recorded forward pass holds its maps.

    Parameters
    ----------
    record : Recorder
    value : int
    grid, prefix
        What the user says of tokens; found where absent.
    start : int
        Number of the value with the images.

    Raises
    ------
    InputError
        If the grid of tokens cannot be told.
    """
    shape = tuple(record.tensors[value].shape)
    if len(shape) < 3:
        return Layout()
    graph = _Neighbours(record)
    if channels_at(value, graph.before, graph.after) != len(shape) - 1:
        return Layout()
    if len(shape) > 3:
        return Layout("last")
    image = tuple(record.tensors[start].shape[2:])
    count, places = token_grid(shape[1], _known_maps(record, value), prefix, grid, image=image)
    return Layout("tokens", count, places)


def _is_count(number: Any, least: int) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool) and int(number) >= least


def _known_maps(record: Recorder, value: int) -> Iterator[tuple[int, ...]]:
    """Spatial shapes met before a value: of convolutions, and of channels-last maps that are tokens in other shape."""
    for call in record.calls[: record.producer.get(value, 0)]:
        if "conv" in call.name:
            yield tuple(record.tensors[call.results[0]].shape[2:])
        elif call.name in _VIEWS:
            shapes = [tuple(record.tensors[v].shape) for v in (call.sources[0], call.results[0])]
            (n, *few, c), (m, *many, d) = sorted(((*s, 0, 0)[: max(len(s), 2)] for s in shapes), key=len)
            if len(few) == 1 and len(many) in (2, 3) and (n, c) == (m, d) and min(many) > 1:
                yield tuple(many)


class _Neighbours:
    """What the operations around a value tell of its axes; see :func:`camcore.layout.channels_at`."""

    def __init__(self, record: Recorder) -> None:
        self.record = record
        self._readers: dict[int, list[Call]] | None = None

    def before(self, value: int) -> Iterator[int | Hop[int]]:
        """From the operation that made the value."""
        if value not in self.record.producer:
            return
        call = self.record.calls[self.record.producer[value]]
        clue = self._clue(call, value)
        if clue is not None:
            yield clue
            return
        for source in call.sources:
            yield from self._hop(call, value, source, back=True)

    def after(self, value: int) -> Iterator[int | Hop[int]]:
        """From the operations that read the value."""
        for call in self._read_by(value):
            clue = self._read_clue(call, value)
            if clue is not None:
                yield clue
                continue
            for result in call.results:
                yield from self._hop(call, value, result, back=False)

    def _read_by(self, value: int) -> list[Call]:
        if self._readers is None:
            self._readers = {}
            for call in self.record.calls:
                for source in set(call.sources):
                    self._readers.setdefault(source, []).append(call)
        return self._readers.get(value, [])

    def _rank(self, value: int) -> int:
        return self.record.tensors[value].ndim

    def _clue(self, call: Call, value: int) -> int | None:
        """The channel axis of what an operation gives, or takes: most treat both alike."""
        if any(part in call.name for part in _SPATIAL):
            return 1
        if call.name in _MATRICES or (call.name == "native_layer_norm" and len(call.args[1]) == 1):
            return self._rank(value) - 1
        return None

    def _read_clue(self, call: Call, value: int) -> int | None:
        data = 1 if call.name == "addmm" else 0
        if call.name == "mean" and not _is_norm(call, self._rank(value)):
            return _left(call, self._rank(value))
        return self._clue(call, value) if call.sources[data : data + 1] == (value,) else None

    def _hop(self, call: Call, value: int, other: int, *, back: bool) -> Iterator[Hop[int]]:
        here, there = (tuple(self.record.tensors[v].shape) for v in (value, other))
        if call.name in _PERMUTES:
            order = _order(call, len(here))
            yield Hop(other, order if back else inverse(order))
        elif call.name in _VIEWS:
            yield Hop(other, through_view(here, there))
        elif len(here) == len(there) and not call.name.startswith((*_PRODUCTS, *_ATTENTION)):
            yield Hop(other, tuple(range(len(here))))


def _order(call: Call, rank: int) -> tuple[int, ...]:
    """The axes of a permutation: axis i of the result is that axis of the source."""
    if call.name == "permute":
        return tuple(axis % rank for axis in call.args[1])
    order = list(range(rank))
    a, b = (axis % rank for axis in call.args[1:3]) if call.name == "transpose" else (0, rank - 1)
    order[a], order[b] = order[b], order[a]
    return tuple(order)


def _axes(call: Call, rank: int) -> set[int]:
    """What a reduction runs over."""
    axes = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    return {axes % rank} if isinstance(axes, int) else {a % rank for a in axes or range(rank)}


def _is_norm(call: Call, rank: int) -> bool:
    """A mean over the last axis that keeps it: the first step of a normalisation written by hand."""
    keep = call.args[2] if len(call.args) > 2 else call.kwargs.get("keepdim", False)
    return bool(keep) and _axes(call, rank) == {rank - 1}


def _left(call: Call, rank: int) -> int | None:
    """The one axis that a mean leaves besides the batch."""
    axes = _axes(call, rank)
    try:
        return channel_axis(call.name, sorted(axes), rank) if len(axes) == rank - 2 else None
    except HeadNotFound:
        return None


def token_features(record: Recorder, scores: int, start: int) -> int | None:
    """The tokens that the last attention reads: what a network whose scores read a class token is explained by.

    Behind the last attention no other token than the class token reaches the scores, so that gradients vanish at the
    patches. Mostly this is what the first layer normalisation of the last block gives.

    Parameters
    ----------
    record : Recorder
        Of a full forward pass.
    scores, start : int
        Numbers of the values with the scores and the images.

    Returns
    -------
    int or None
        The number of an (N, T, C) value. None where a pooling over positions stands between the last
        attention and the scores (what it reads is right as it is), and where there is no attention.
    """
    live = record.depends_on(start)
    wanted = {scores}
    for call in reversed(record.calls):
        if wanted.isdisjoint(call.results) or live.isdisjoint(call.sources):
            continue
        if _pools(record, call):
            return None
        values = _attention_values(record, call, live)
        if values is not None:
            return _token_source(record, values, live, len(record.tensors[start]))
        wanted.update(call.sources)
    return None


def _pools(record: Recorder, call: Call) -> bool:
    """Whether positions are joined by a mean, a sum or a maximum."""
    before, after = (tuple(record.tensors[v].shape) for v in (call.sources[0], call.results[0]))
    if len(before) < 3 or math.prod(after) >= math.prod(before):
        return False
    if call.name in ("mean", "sum", "amax", "max"):
        return not _is_norm(call, len(before))
    return "pool" in call.name


def _attention_values(record: Recorder, call: Call, live: set[int]) -> int | None:
    """The values (third operand) of an attention, or the input of a whole layer in one operation; else None."""
    sources = [s for s in call.sources if s in live]
    if call.name.startswith(_LAYERS):
        return sources[0]
    if call.name.startswith(_ATTENTION):
        return call.sources[2] if call.sources[2] in live else None
    if call.name.startswith(_PRODUCTS) and len(sources) == 2 and _from_softmax(record, sources[0]):
        return sources[1]
    return None


def _from_softmax(record: Recorder, value: int) -> bool:
    """Whether nothing but reshapes and dropout stand between a softmax and a value."""
    while value in record.producer:
        call = record.calls[record.producer[value]]
        if call.name in _SOFTMAX:
            return True
        if call.name not in _SHAPES:
            return False
        value = call.sources[0]
    return False


def _token_source(record: Recorder, value: int, live: set[int], batch: int) -> int | None:
    """What the values of an attention are projected from."""
    while value in record.producer:
        call = record.calls[record.producer[value]]
        sources = [s for s in call.sources if s in live]
        bias = call.name == "add" and len(sources) == 1 and record.made_by(sources[0], "mm")
        if len(sources) != 1 or not (call.name in (*_PROJECTIONS, "addmm", "mm", "linear") or bias):
            break
        value = sources[0]
    if _is_row(record, value, batch):
        return value
    return _nearest_norm(record, value, batch)


def _is_row(record: Recorder, value: int, batch: int) -> bool:
    shape = record.tensors[value].shape
    return value in record.producer and len(shape) == 3 and shape[0] == batch


def _nearest_norm(record: Recorder, value: int, batch: int) -> int | None:
    """The last normalised row of tokens that a value comes from, where a network pools or mixes on the way to it."""
    wanted = {value}
    for call in reversed(record.calls[: record.producer.get(value, -1) + 1]):
        if not wanted.isdisjoint(call.results):
            if call.name == "native_layer_norm" and _is_row(record, call.results[0], batch):
                return call.results[0]
            wanted.update(call.sources)
    return None
