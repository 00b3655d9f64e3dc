"""A model without the map that was embedded in it: what is explained, cut and differentiated is the network alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from camcore_onnx.reading.load import Loaded
from camcore_onnx.surgery import remove_unread

__all__ = ["output_names", "without_map"]

_OURS = ("cam/", "grad/", "again/", "curvature/")


def output_names(card: Mapping[str, Any]) -> tuple[str, ...]:
    """What the outputs of a map are called: the map, its classes, their scores, the heatmap."""
    name = str(card.get("name", "cam"))
    return name, f"{name}_classes", f"{name}_scores", "heatmap" if name == "cam" else f"{name}_heatmap"


def without_map(loaded: Loaded, card: Mapping[str, Any]) -> Loaded:
    """A copy without the outputs, the input and the nodes of its map.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    card : mapping
        What its metadata says of the map. That may be wrong: the first output always stays.
    """
    model, (name, *beside, heatmap) = loaded.model.clone(), output_names(card)
    given = {name, *(beside if card.get("classes") != "all" else ()), *((heatmap,) if card.get("heatmap") else ())}
    graph = model.graph
    graph.outputs[1:] = [v for v in graph.outputs[1:] if v.name not in given]
    remove_unread(graph, _OURS)
    _remove_input(graph, f"{name}_class")
    return replace(loaded, model=model)


def _remove_input(graph: ir.Graph, name: str) -> None:
    value = graph.initializers.get(name)
    if value is not None and not value.uses() and value in graph.inputs:
        graph.inputs.remove(value)
        del graph.initializers[name]
