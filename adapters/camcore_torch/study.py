"""What one fully recorded forward pass teaches: where the features are, and where to start recording next time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from camcore.errors import InputError, suggest
from camcore.evidence import Layer, milestones
from camcore.layout import POOLED_PREFIX, Layout
from camcore_torch.heads import Found
from camcore_torch.layouts import layout_of, token_features
from camcore_torch.record import Event, Place, Recorder

__all__ = ["Point", "Study", "make_study", "value_at"]


@dataclass(frozen=True, eq=False)
class Point:
    """A value of the forward pass.

    After ``place``, it is result ``result`` of an operation ``func``, before which come ``offset`` others of the same
    ``func``: other operations are not counted, since autograd puts some in. With no offset it is what the module at
    ``place`` returns.
    """

    place: Place
    offset: int | None = None
    func: Any = None
    result: int = 0


@dataclass(frozen=True, eq=False)
class Study:
    """What one fully recorded forward pass has taught.

    Attributes
    ----------
    point : Point or None
        Where to start recording to read the head: shortly before the features that it reads.
    logits : Point or None
        Of the scores before a final softmax; None where the network returns these.
    points : dict
        Value number -> where it is met.
    layouts : dict
        Value number -> how its axes lie, or the error that says why that is not known.
    shapes : dict
        Value number -> shape without the batch axis.
    size : tuple of int
        Spatial lengths of the images it was learned from.
    """

    found: Found
    point: Point | None
    logits: Point | None
    name: str
    dtype: torch.dtype
    modules: dict[str, int]
    layers: list[Layer]
    points: dict[int, Point]
    layouts: dict[int, Layout | InputError]
    shapes: dict[int, tuple[int, ...]]
    size: tuple[int, ...]

    @cached_property
    def one_size(self) -> bool:
        """Whether it holds only for images of this size: those of another one have another grid of tokens."""
        return any(isinstance(layout, InputError) or layout.kind == "tokens" for layout in self.layouts.values())

    def layout_of(self, value: int) -> Layout:
        """How the axes of a value lie."""
        layout = self.layouts[value]
        if isinstance(layout, InputError):
            raise layout
        return layout

    def shape_of(self, value: int) -> tuple[int | None, ...]:
        """(C, *S) of a value; empty where its axes are not known."""
        layout = self.layouts.get(value)
        return layout.shape(self.shapes[value]) if isinstance(layout, Layout) else ()

    def value_of(self, layer: str | None) -> int | None:
        """The number of the value that a module returns; of the features where no module is named."""
        if layer is None:
            return self.found.features
        if layer not in self.modules:
            nearest = suggest(layer, filter(None, self.modules))
            raise InputError(f"no layer is called {layer!r}: no module of that path returns a tensor. {nearest}")
        return self.modules[layer]


def make_study(found: Found, record: Recorder, events: list[Event], images: int, output: int, **tokens: Any) -> Study:
    """Draw the conclusions from a record.

    ``images`` and ``output`` are the numbers of what goes into the network and what it returns; ``tokens`` may give
    ``grid`` and ``prefix``.
    """
    if found.head is None:  # where a class token is read, the patches matter one attention before
        found = replace(found, features=token_features(record, found.logits, images) or found.features)
    modules = {e.path: e.value for e in events if e.kind == "exit" and e.value is not None}
    values = {v for v in (*modules.values(), found.features) if v is not None and v in record.producer}
    layouts = {v: _layout(record, v, tokens) for v in values}
    if found.head is not None and found.features is not None:
        given = any(said is not None for said in tokens.values())
        known = _pooled_layout(found.channel_axis, layouts.get(found.features), given=given)
        layouts[found.features] = known
        if known.prefix:
            found = replace(found, head=None, how="", obstacle=POOLED_PREFIX)
    linear = found.head is not None and found.features in record.producer
    shapes = {v: tuple(record.tensors[v].shape[1:]) for v in values}
    name = _name(found.features, modules, record)
    return Study(
        found=found,
        point=_point(record, events, found.features) if linear and found.features is not None else None,
        logits=None if found.logits == output else _point(record, events, found.logits),
        name=name,
        dtype=record.tensors[found.logits].dtype,
        modules=modules,
        layers=_layers(modules, name, record, layouts),
        points={v: _exit(events, v) or _point(record, events, v) for v in values},
        layouts=layouts,
        shapes=shapes,
        size=tuple(record.tensors[images].shape[2:]),
    )


def _pooled_layout(channel_axis: int, known: Layout | InputError | None, *, given: bool) -> Layout:
    """What the pooling says of the axes goes first; of tokens it does not know the grid.

    On a line any number of tokens may be taken for a grid and some in front: there they must be ``given``.
    """
    if channel_axis == 1:
        return Layout("first")
    sure = isinstance(known, Layout) and (not known.prefix or len(known.grid) > 1 or given)
    return known if sure and isinstance(known, Layout) and known.kind == "tokens" else Layout("last")


def _layout(record: Recorder, value: int, tokens: dict[str, Any]) -> Layout | InputError:
    try:
        return layout_of(record, value, **tokens)
    except InputError as error:
        return error


def _exit(events: list[Event], value: int) -> Point | None:
    """The first module that returns the value."""
    event = next((e for e in events if e.kind == "exit" and e.value == value), None)
    return None if event is None else Point(Place(event.path, event.kind, event.nth))


def _point(record: Recorder, events: list[Event], value: int) -> Point:
    """Start to record at the last module entered or left before the value is made."""
    index = record.producer[value]
    event = max((e for e in events if e.index <= index), key=lambda e: e.index)
    call = record.calls[index]
    before = sum(c.func is call.func for c in record.calls[event.index : index])
    return Point(Place(event.path, event.kind, event.nth), before, call.func, call.results.index(value))


def value_at(record: Recorder, point: Point) -> int | None:
    """The number of the features in a tail record; None if the network did something else this time."""
    assert point.offset is not None  # recording starts before the value is made
    alike = [call for call in record.calls if call.func is point.func]
    return alike[point.offset].results[point.result] if point.offset < len(alike) else None


def _name(value: int | None, modules: dict[str, int], record: Recorder) -> str:
    """The outermost module that returns the value; else the operation that makes it and the module before."""
    if value is None:
        return ""
    paths = [p for p, v in modules.items() if v == value and p]
    if paths:
        return min(paths, key=lambda p: (p.count("."), len(p)))
    call = record.calls[record.producer[value]] if value in record.producer else None
    if call is None:
        return "images"
    before = [p for p, v in modules.items() if v in call.sources and p]
    return f"{call.name}({min(before, key=len)})" if before else call.name


def _layers(
    modules: dict[str, int], features: str, record: Recorder, layouts: dict[int, Layout | InputError]
) -> list[Layer]:
    """The modules that return maps, in order; at each map size the outermost ones only."""
    found: list[Layer] = []
    for path, value in sorted(modules.items(), key=lambda item: item[1]):
        layout, native = layouts.get(value), tuple(record.tensors[value].shape[1:])
        if not path or not isinstance(layout, Layout) or len(native) < 2:
            continue
        shape = layout.shape(native)
        if math.prod(n or 1 for n in shape[1:]) > 1:
            found.append(Layer(path, shape, record.calls[record.producer[value]].name))
    depth = {s: min(_depth(e) for e in found if e.shape[1:] == s) for s in {e.shape[1:] for e in found}}
    return milestones([e for e in found if e.name == features or _depth(e) == depth[e.shape[1:]]], features)


def _depth(layer: Layer) -> int:
    return layer.name.count(".")
