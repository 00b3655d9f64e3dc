"""Shapes and types that a graph does not state, by running it: ONNX Runtime alone knows its own operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx_ir as ir

from camcore_onnx.gradients.facts import TYPES, Feed, see
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.runtime import make_session

__all__ = ["state"]


def state(model: ir.Model, values: Iterable[ir.Value], feeds: Sequence[Feed] = ()) -> None:
    """Write shape and type into those of some tensors that lack them.

    Without ``feeds`` they are what ONNX Runtime infers, which is nothing behind a Reshape to computed lengths.
    """
    unknown = {v.name or "": v for v in values if (v.shape is None or v.type is None) and v.producer() is not None}
    if feeds:
        facts = see(Loaded(model, "the model", folder=_folder(model.graph)), unknown.values(), feeds)
        for value, lengths in facts.shapes.items():
            value.shape, value.type = ir.Shape(lengths), ir.TensorType(facts.dtype(value))
        return
    copy = model.clone()
    there = set(copy.graph.outputs)
    copy.graph.outputs.extend(v for node in copy.graph for v in node.outputs if v.name in unknown and v not in there)
    session = make_session(copy, device="cpu", optimization="disabled", folder=_folder(model.graph))
    for output in session.get_outputs():
        if output.name in unknown and output.type in TYPES:
            value = unknown[output.name]
            value.type = ir.TensorType(TYPES[output.type])
            value.shape = ir.Shape(output.shape) if output.shape else None  # empty where the rank is not known


def _folder(graph: ir.Graph) -> Path | None:
    """Where weights in external files lie."""
    stored = (value.const_value for value in graph.initializers.values())
    return next((Path(t.base_dir) for t in stored if isinstance(t, ir.ExternalTensor)), None)
