"""Hand a model's weights to ONNX Runtime where they lie, instead of through a file of the whole model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.reading.load import serialize

__all__ = ["without_weights"]

_SMALL = 1024  # bytes; runtimes read small constants while they build the graph
_PLAIN = frozenset(
    {"float16", "float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}
)


def without_weights(model: ir.Model) -> tuple[bytes, Mapping[str, NDArray[np.generic]]]:
    """The serialized graph, and the weights that it refers to by name.

    To write half a gigabyte of weights into a message and to read them again takes seconds, and a copy for each
    session. Small ones, those of unusual types and those in files of their own stay as they are.

    Parameters
    ----------
    model : ir.Model
        Not changed.

    Raises
    ------
    InputError
        If what is left is larger than the 2 GiB that protobuf allows.
    """
    copy = model.clone()
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in copy.graph.initializers.items():
        stored = value.const_value
        if stored is None or isinstance(stored, ir.ExternalTensor) or stored.nbytes < _SMALL:
            continue
        try:
            array = stored.numpy()
        except ValueError:  # damaged: the runtime says how
            continue
        if array.dtype.name in _PLAIN and array.dtype.isnative:
            arrays[name] = np.ascontiguousarray(array)
            shape = ir.Shape(array.shape)
            value.const_value = ir.ExternalTensor("weights", 0, stored.nbytes, stored.dtype, shape=shape, name=name)
    return serialize(copy), arrays
