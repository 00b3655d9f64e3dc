"""Write fused and quantised operators of a graph out in standard ones, so that only these need derivatives."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from camcore_onnx.gradients.facts import Feed
from camcore_onnx.unfold import attention, fused, norms, quantized  # noqa: F401  (they enter their forms)
from camcore_onnx.unfold.integers import dequantized
from camcore_onnx.unfold.site import FORMS, Site

__all__ = ["FORMS", "REFUSED", "dequantized", "unfold"]

REFUSED = (fused.other_layout, fused.integer_arithmetic)  # forms that say why there is none


def unfold(model: ir.Model, nodes: Collection[ir.Node], feeds: Sequence[Feed] = ()) -> None:
    """Replace fused and quantised operators by what they are short for.

    ONNX Runtime fuses the result again when it loads it, so that the model computes what it computed before.

    Parameters
    ----------
    model : ir.Model
        Changed in place. All tensors keep their names; a node that is written out stays as the last of those that it
        becomes, with the same first output.
    nodes : collection of ir.Node
        Those of its graph that may be replaced; others stay.
    feeds : sequence of dict, optional
        Inputs that the model runs on: for what depends on shapes that it does not state.

    Raises
    ------
    MethodNotPossible
        For an operator that is known to have no such form, or not with these inputs.
    """
    chosen, graph = set(nodes), model.graph
    taken = {v.name or "" for node in graph for v in node.outputs} | {node.name or "" for node in graph}
    for node in graph:  # onnxruntime.transformers leaves out its own domain
        model.opset_imports.setdefault(node.domain, 1)
    taken |= {v.name or "" for v in graph.inputs} | set(graph.initializers)
    for node in [n for n in model.graph if n in chosen]:
        form = FORMS.get((node.domain, node.op_type))
        if form is not None:
            form(Site(model, node, taken, feeds))
