"""What one fully recorded forward pass teaches: where the features are, and where to start recording next time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from camcore.errors import InputError, suggest
from camcore.evidence import Layer, milestones
from camcore_torch.heads import Found
from camcore_torch.record import Event, Place, Recorder

__all__ = ["Point", "Study", "make_study", "value_at"]


@dataclass(frozen=True, eq=False)
class Point:
    """A value of the forward pass: recording from ``place`` on, it is result ``result`` of operation ``offset``."""

    place: Place
    offset: int
    func: Any
    result: int


@dataclass(frozen=True, eq=False)
class Study:
    """What one fully recorded forward pass has taught."""

    found: Found
    point: Point | None
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    modules: dict[str, int]
    layers: list[Layer]
    points: dict[int, Point]

    def value_of(self, layer: str) -> int:
        """The number of the value that a module returns."""
        if layer not in self.modules:
            nearest = suggest(layer, filter(None, self.modules))
            raise InputError(f"no layer is called {layer!r}: no module of that path returns a tensor. {nearest}")
        return self.modules[layer]


def make_study(found: Found, record: Recorder, events: list[Event]) -> Study:
    modules = {e.path: e.value for e in events if e.kind == "exit" and e.value is not None}
    values = {v for v in (*modules.values(), found.features) if v is not None and v in record.producer}
    points = {v: _point(record, events, v) for v in values}
    features = None if found.features is None else record.tensors[found.features]
    shape = (
        ()
        if features is None
        else tuple(np.moveaxis(np.empty((0, *features.shape[1:])), found.channel_axis, 1).shape[1:])
    )
    name = _name(found.features, modules, record)
    return Study(
        found=found,
        point=None if found.head is None or found.features is None else points.get(found.features),
        name=name,
        shape=shape,
        dtype=record.tensors[found.logits].dtype,
        modules=modules,
        layers=_layers(modules, name, record),
        points=points,
    )


def _point(record: Recorder, events: list[Event], value: int) -> Point:
    """Start to record at the last module entered or left before the value is made."""
    index = record.producer[value]
    event = max((e for e in events if e.index <= index), key=lambda e: e.index)
    call = record.calls[index]
    return Point(Place(event.path, event.kind, event.nth), index - event.index, call.func, call.results.index(value))


def value_at(record: Recorder, point: Point) -> int | None:
    """The number of the features in a tail record; None if the network did something else this time."""
    if len(record.calls) <= point.offset or record.calls[point.offset].func is not point.func:
        return None
    return record.calls[point.offset].results[point.result]


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


def _layers(modules: dict[str, int], features: str, record: Recorder) -> list[Layer]:
    """The modules that return maps, in order; at each map size the outermost ones only."""
    found: list[Layer] = []
    for path, value in sorted(modules.items(), key=lambda item: item[1]):
        shape = tuple(record.tensors[value].shape[1:])
        if path and value in record.producer and len(shape) > 1 and math.prod(shape[1:]) > 1:
            found.append(Layer(path, shape, record.calls[record.producer[value]].name))
    depth = {s: min(_depth(e) for e in found if e.shape[1:] == s) for s in {e.shape[1:] for e in found}}
    return milestones([e for e in found if e.name == features or _depth(e) == depth[e.shape[1:]]], features)


def _depth(layer: Layer) -> int:
    return layer.name.count(".")
