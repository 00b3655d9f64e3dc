"""The weight of a second classifier inside a model: an output that depends on no input, named in the metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore_onnx.constants import Constants
from camcore_onnx.reading.load import Loaded

__all__ = ["NAME", "add_second_weight", "read_second_weight"]

Floats = NDArray[np.floating[Any]]
NAME = "recam_weight"


def add_second_weight(model: ir.Model, weight: Floats) -> str:
    """Append the (K, C) weight as an output behind all others; gives its name. The model is changed.

    An initialiser that nothing reads would be dropped by runtimes and optimisers, with a warning; an output stays. It
    is a copy of an initialiser, so nothing is computed for it, and nothing at all where it is not asked for.
    """
    graph = model.graph
    taken = {v.name for node in graph for v in node.outputs} | {v.name for v in graph.inputs} | set(graph.initializers)
    name = next(n for n in (NAME, *(f"{NAME}_{i}" for i in range(1, len(taken) + 2))) if n not in taken)
    array = np.ascontiguousarray(weight, np.float32)
    stored = ir.Value(name=f"camcore/{name}", const_value=ir.tensor(array, name=f"camcore/{name}"))
    output = ir.Value(name=name)
    for value in (stored, output):
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
    graph.register_initializer(stored)
    graph.append(ir.Node("", "Identity", [stored], outputs=[output], name=f"camcore/{name}/copy"))
    graph.outputs.append(output)
    return name


def read_second_weight(loaded: Loaded, constants: Constants, name: str) -> Floats:
    """The array that a model calls the weight of its second classifier.

    Raises
    ------
    InputError
        If there is no such tensor, or if it is no constant matrix of floats.
    """
    graph = loaded.model.graph
    value = next((v for v in graph.outputs if v.name == name), None)
    if value is None:
        outputs = ", ".join(repr(v.name) for v in graph.outputs)
        raise InputError(
            f"{loaded.name}: its metadata names {name!r} as the weight of a second classifier, and it has no such "
            f"output ({outputs}); export it again"
        )
    array = constants.value(value)
    if array is None or array.ndim != 2 or array.dtype.kind != "f":
        found = "changes with the images" if array is None else f"is {array.dtype} {array.shape}"
        raise InputError(
            f"{loaded.name}: {name!r}, the weight of its second classifier, {found}; expected constant floats, "
            "(classes, channels). Export it again"
        )
    return array
