"""What the graph alone tells of a layer's gradient: what stands in its way, and what is not exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from camcore.errors import InputError, MethodNotPossible
from camcore_onnx.gradients.facts import Feed
from camcore_onnx.gradients.refuse import check_layer, explain_missing
from camcore_onnx.gradients.sweep import Way
from camcore_onnx.reading.load import Loaded
from camcore_onnx.unfold import FORMS, dequantized, unfold

__all__ = ["Outlook", "outlook"]


@dataclass(frozen=True)
class Outlook:
    """Why there is no gradient at a layer, as far as is known; and which operators are not exact, and why."""

    obstacle: str = ""
    approximate: tuple[str, ...] = ()


def outlook(loaded: Loaded, scores: ir.Value, layer: ir.Value, feeds: Callable[[], Sequence[Feed]]) -> Outlook:
    """Look at the way from the scores to a layer.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    scores, layer : ir.Value
    feeds : callable
        Gives images that the model runs on; asked only where a fused operator is written out to a number of axes that
        the graph does not state.
    """
    way = Way(loaded.model.graph, [scores], [layer])
    quantised = layer.dtype is not None and not layer.dtype.is_floating_point()
    try:
        if quantised or any((node.domain, node.op_type) in FORMS for node in way.missing):
            way = _written_out(loaded, scores, layer, feeds)
        check_layer(way, next(iter(way.wanted)), next(iter(way.starts)))
        explain_missing(way)
    except MethodNotPossible as error:
        return Outlook(str(error))
    return Outlook(approximate=tuple(way.approximate))


def _written_out(loaded: Loaded, scores: ir.Value, layer: ir.Value, feeds: Callable[[], Sequence[Feed]]) -> Way:
    """The way in a copy without fused operators."""
    try:
        return _unfolded(loaded, scores, layer, ())
    except MethodNotPossible as error:
        try:
            images = feeds()
        except InputError:  # of no known size
            raise error from None
        return _unfolded(loaded, scores, layer, images)


def _unfolded(loaded: Loaded, scores: ir.Value, layer: ir.Value, feeds: Sequence[Feed]) -> Way:
    copy = replace(loaded, model=loaded.model.clone())
    model = copy.model
    values = {v.name: v for node in model.graph for v in node.outputs} | {v.name: v for v in model.graph.inputs}
    start, wanted = values[scores.name], values[layer.name]
    unfold(model, Way(model.graph, [start], [wanted]).nodes, feeds)
    values = {v.name: v for node in model.graph for v in node.outputs} | {v.name: v for v in model.graph.inputs}
    start, wanted = (dequantized(model, values[v.name]) for v in (scores, layer))
    model.graph.sort()
    return Way(model.graph, [start], [wanted])
