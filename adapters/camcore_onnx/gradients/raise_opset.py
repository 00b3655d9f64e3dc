"""Models of old opsets, in one whose operators gradients can be written in."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore_onnx.load import Loaded, infer_shapes

__all__ = ["OLDEST", "raised"]

OLDEST, WANTED = 9, 11  # the derivative of a pooling of maps of any size needs the latter


def raised(loaded: Loaded) -> Loaded:
    """The model itself, or one of opset 11 where it is older than 9; tensors keep their names.

    Raises
    ------
    MethodNotPossible
        If onnx cannot convert it.
    """
    opset = loaded.model.opset_imports.get("", 0)
    if opset >= OLDEST:
        return loaded
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(loaded.model), WANTED)
    except Exception as error:  # of onnx's C++ code: these share no base class
        reason = (str(error).strip().splitlines() or [repr(error)])[0][:300]
        raise MethodNotPossible(
            f"the model has opset {opset}, gradients need {OLDEST} or later, and onnx cannot convert it: {reason}. "
            "Export it again with a later opset"
        ) from error
    del proto.graph.value_info[:]  # the mask of a Dropout has another type since
    model = ir.from_proto(proto)
    infer_shapes(model)
    return replace(loaded, model=model)
