"""Models of old opsets, in one whose operators gradients can be written in."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.running.runtime import make_session

__all__ = ["OLDEST", "raised"]

OLDEST, WANTED = 9, 11  # the derivative of a pooling of maps of any size needs the latter


def raised(loaded: Loaded) -> Loaded:
    """The model itself, or where it is older than opset 9 one of opset 11, or 9; tensors keep their names.

    Raises
    ------
    MethodNotPossible
        If onnx cannot convert it.
    """
    opset, reason = loaded.model.opset_imports.get("", 0), ""
    if opset >= OLDEST:
        return loaded
    for goal in (WANTED, OLDEST):
        try:
            model = _converted(loaded, goal)
        except Exception as error:  # of onnx's C++ code: these share no base class
            reason = (str(error).strip().splitlines() or [repr(error)])[0][:300]
        else:
            infer_shapes(model)
            return replace(loaded, model=model)
    raise MethodNotPossible(
        f"the model has opset {opset}, gradients need {OLDEST} or later, and onnx cannot convert it: {reason}. "
        "Export it again with a later opset"
    )


def _converted(loaded: Loaded, opset: int) -> ir.Model:
    """By onnx, which makes bounds of a Clip float32 whatever it clips: ONNX Runtime must load the result."""
    given = ir.to_proto(loaded.model)
    if {weight.name for weight in given.graph.initializer} - {value.name for value in given.graph.input}:
        given.ir_version = max(given.ir_version, 4)  # before that all weights are inputs too; only onnx insists on it
    proto = onnx.version_converter.convert_version(given, opset)
    del proto.graph.value_info[:]  # the mask of a Dropout has another type since
    model = ir.from_proto(proto)
    make_session(model, device="cpu", optimization="disabled", folder=loaded.folder)
    return model
