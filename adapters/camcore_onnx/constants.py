"""The value of a tensor that depends on no input, however it is hidden."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.runtime import make_session

__all__ = ["Constants"]

_MAX_ELEMENTS = 1 << 30


class Constants:
    """Reads constants: initialisers (also those that are inputs), Constant nodes, and whatever is computed of them.

    What stands behind Transpose, Reshape, DequantizeLinear, ConstantOfShape and the like is computed by ONNX Runtime
    itself, so that every operator and opset means what it means in the model.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._known: dict[ir.Value, bool] = {}

    def is_constant(self, value: ir.Value | None) -> bool:
        """True if no input of the model reaches ``value``."""
        if value is None:
            return False
        stack = [value]
        while stack:  # no recursion: graphs are deep
            top = stack[-1]
            if top in self._known:
                stack.pop()
                continue
            producer = top.producer()
            sources = [] if producer is None else [v for v in producer.inputs if v is not None]
            todo = [v for v in sources if v not in self._known]
            if producer is not None and todo:
                stack += todo
                continue
            self._known[top] = (
                top.const_value is not None
                if producer is None
                else all(self._known[v] for v in sources) and not _is_opaque(producer)
            )
            stack.pop()
        return self._known[value]

    def value(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The array, or None where ``value`` is not constant. bfloat16 is given as float32."""
        if value is None or not self.is_constant(value):
            return None
        try:
            tensor = ir.convenience.get_const_tensor(value)
            array = self._compute(value) if tensor is None else tensor.numpy()
        except InputError:
            raise
        except Exception as error:  # of numpy, onnx_ir or ONNX Runtime: these share no base class
            reason = str(error).strip().splitlines()[0][:300]
            raise InputError(f"the weights {value.name!r} cannot be read: {reason}") from error
        return array if array.dtype.kind in "fiub" else array.astype(np.float32)

    def _compute(self, value: ir.Value) -> NDArray[Any]:
        model = self._loaded.model
        size = math.prod(n if isinstance(n, int) else 1 for n in value.shape or ())
        if size > _MAX_ELEMENTS:
            raise InputError(f"the weights {value.name!r} would have {size} elements; the limit is {_MAX_ELEMENTS}")
        graph = ir.convenience.extract(model.graph, inputs=[], outputs=[value])
        part = ir.Model(graph, ir_version=max(model.ir_version, 4))
        session = make_session(part, device="cpu", optimization="disabled", folder=self._loaded.folder)
        result: NDArray[Any] = session.run(None, {})[0]
        return result


def _is_opaque(node: ir.Node) -> bool:
    """Its value depends on more than its inputs: on chance, or on what the graphs inside it read of the one around."""
    inner = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return node.op_type.startswith("Random") or any(a.type in inner for a in node.attributes.values())
