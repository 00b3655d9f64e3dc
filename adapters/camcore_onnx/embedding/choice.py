"""Which classes are explained: all, the best ones, or those that an input names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from camcore_onnx.embedding.site import Site, check_free
from camcore_onnx.embedding.wanted import Wanted
from camcore_onnx.gradients.seeds import chosen_classes, top
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["choose", "class_input", "scores_of"]

_WHOLE, _FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
_GATHER_ELEMENTS = 11  # the opset since which there is such an operator
BEST = -1


def choose(site: Site, wanted: Wanted) -> Tensor | None:
    """The (N, T) int64 classes to explain; None for all."""
    if wanted.classes == "all":
        return None
    if wanted.classes == "input":
        given = class_input(site, f"{wanted.name}_class")
        asked = Tensor(site.pen, given, ir.DataType.INT32, (None,)).cast(_WHOLE).unsqueeze(1)
        return chosen_classes(site.pen, site.scores, asked)
    site.class_scores, classes = top(site.pen, site.scores, min(wanted.top, site.scores.shape[1] or wanted.top))
    return classes


def class_input(site: Site, name: str, given: ir.Value | None = None) -> ir.Value:
    """An int32 input of one number, or one for each image, that may be left out: -1, the best class, is its default.

    ``given`` is an input that becomes it, under this name.
    """
    graph, value = site.graph, ir.Value(name="") if given is None else given
    if value.name != name:
        check_free(site, name)
    if given is None:
        graph.inputs.append(value)
    value.name = name
    value.type, value.shape = ir.TensorType(ir.DataType.INT32), ir.Shape(["cam_rows"])
    value.const_value = ir.tensor(np.array([BEST], np.int32), name=name)
    graph.register_initializer(value)
    return value


def scores_of(site: Site, classes: Tensor) -> Tensor:
    """The (N, T) scores of some classes."""
    if site.class_scores is not None:
        return site.class_scores
    rows, pen = site.scores, site.pen
    if pen.opset >= _GATHER_ELEMENTS:
        return pen.op("GatherElements", rows, classes, shape=classes.shape, axis=1)
    return (one_hot(site, classes) * rows.unsqueeze(1)).sum(2, keep=False)


def one_hot(site: Site, classes: Tensor) -> Tensor:
    """(N, T, K): one at each class, else zero."""
    every = np.arange(site.scores.shape[1] or 0, dtype=np.int64)[None, None]
    return classes.unsqueeze(2).equals(every).cast(_FLOAT)
