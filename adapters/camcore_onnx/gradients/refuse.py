"""What cannot be differentiated, told before anything is built."""

from __future__ import annotations

import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.sweep import Way
from camcore_onnx.tails import reached

__all__ = ["check_layer", "explain_missing"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def check_layer(way: Way, layer: ir.Value, scores: ir.Value) -> None:
    """Refuse a layer that holds no floats, as far as that is known, or is the scores."""
    dtype = layer.dtype if way.facts is None else way.facts.dtype(layer)
    if dtype not in (None, *_FLOATS):
        raise MethodNotPossible(
            f"the layer {layer.name!r} holds {dtype.name.lower()}, not floats; choose another layer"
        )
    if layer is scores:
        raise MethodNotPossible(f"the layer {layer.name!r} is the scores themselves; choose a layer in front of them")


def explain_missing(way: Way) -> None:
    """Refuse a way that gradients cannot go, saying where it ends.

    Raises
    ------
    MethodNotPossible
        Naming the operators without a derivative; or if no way leads from the scores to the layers.
    """
    missing = way.missing
    if missing:
        named = {node.op_type: node for node in missing}
        listed = ", ".join(f"{op} ({node.name or node.outputs[0].name!r})" for op, node in list(named.items())[:5])
        raise MethodNotPossible(
            f"no derivative is known of {listed}{', ...' if len(named) > 5 else ''}, which stand"
            f"{'s' if len(named) == 1 else ''} between the layer and the scores; camcore methods --ops lists those "
            "that have one"
        )
    start = next(iter(way.starts))
    for layer in way.wanted:
        alone = Way(way.graph, way.starts, [layer], way.facts)
        if not alone.nodes and layer not in way.starts:
            through = start in reached(way.graph, [layer])
            how = "do not change smoothly with" if through else "do not depend on"
            why = ": integers, comparisons or constants are all that lead there" if through else ""
            raise MethodNotPossible(f"the scores {start.name!r} {how} the layer {layer.name!r}{why}; choose another")
