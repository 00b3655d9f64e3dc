"""The network behind a layer in double precision, by ONNX's reference evaluator: what gradients are checked against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.facts import Feed
from camcore_onnx.gradients.sweep import Way
from camcore_onnx.reading.load import Loaded, infer_shapes
from camcore_onnx.running.sessions import as_rows
from camcore_onnx.tails import split
from camcore_onnx.unfold import unfold

__all__ = ["DoubleTail", "in_double"]

Doubles = NDArray[np.float64]
_DOUBLE = onnx.TensorProto.DOUBLE
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class Erf(OpRun):
    """That of the reference evaluator is rounded to single precision."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.asarray(erf(x)),)


class Gelu(OpRun):
    """As is this one."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str = "none") -> tuple[NDArray[Any]]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + erf(x / math.sqrt(2))),)


@dataclass(frozen=True, eq=False)
class DoubleTail:
    """(M, ...) features of a layer, and what else the tail reads, to (M, K) scores, all in float64.

    Attributes
    ----------
    evaluator : ReferenceEvaluator
    layer : str
    crossing : tuple of str
        The tensors of the full model that the tail reads besides its features.
    """

    evaluator: Any
    layer: str
    crossing: tuple[str, ...]

    @classmethod
    def of(cls, loaded: Loaded, scores: str, layer: str, feeds: Iterable[Feed]) -> DoubleTail:
        """Cut the graph at a layer.

        Parameters
        ----------
        loaded : Loaded
            Not changed.
        scores, layer : str
            Tensors.
        feeds : iterable of dict
            Images that the model runs on.

        Raises
        ------
        MethodNotPossible
            If the graph cannot be cut there, or the evaluator does not know an operator.
        """
        copy = replace(loaded, model=loaded.model.clone())
        start, wanted = _value(copy, scores), _value(copy, layer)
        unfold(copy.model, Way(copy.model.graph, [start], [wanted]).nodes, list(feeds))
        infer_shapes(copy.model)
        part = split(copy, _value(copy, layer), _value(copy, scores))
        ir.external_data.load_to_model(part.model)
        try:
            evaluator = ReferenceEvaluator(in_double(ir.to_proto(part.model)), new_ops=[Erf, Gelu])
        except Exception as error:  # the evaluator's exceptions share no base class
            raise MethodNotPossible(f"onnx.reference cannot run what is behind {layer!r}: {_first(error)}") from error
        return cls(evaluator, layer, tuple(v.name or "" for v in part.crossing))

    def __call__(self, features: NDArray[Any], crossing: Mapping[str, NDArray[Any]]) -> Doubles:
        feed = {name: crossing[name].astype(np.float64) for name in self.crossing}
        try:
            scores = self.evaluator.run(None, {self.layer: features.astype(np.float64), **feed})[0]
        except Exception as error:  # as above
            raise MethodNotPossible(
                f"onnx.reference cannot run what is behind {self.layer!r}: {_first(error)}"
            ) from error
        return np.asarray(scores, np.float64).reshape(as_rows(scores, self.layer).shape)


def _value(loaded: Loaded, name: str) -> ir.Value:
    graph = loaded.model.graph
    made = (v for node in graph for v in node.outputs)
    return next(v for v in (*made, *graph.inputs) if v.name == name)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with floats of 64 bits; changed in place."""
    _double_graph(model.graph)
    return model


def _double_graph(graph: onnx.GraphProto) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in _FLOATS:
            info.type.tensor_type.elem_type = _DOUBLE
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _double_graph(attribute.g)
            if attribute.HasField("t"):
                _double_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = _DOUBLE


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )
