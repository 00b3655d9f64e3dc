"""Recognise a layer normalisation, as one operator or as the nine that older exports write for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.constants import Constants

__all__ = ["LayerNorm", "averaged_axes", "is_norm_step", "layer_norm", "reduced_axes"]


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``gamma * (data - mean) / sqrt(variance + epsilon) + beta`` over ``axes``."""

    name: str
    data: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    gamma: NDArray[Any] | None = None
    beta: NDArray[Any] | None = None

    @property
    def covers_all(self) -> bool:
        """Whether nothing but the batch is left: every other axis is one long, and one axis holds all values."""
        if self.data.shape is None:
            return True  # nothing is known against it
        rank = len(self.data.shape)
        inside = {a % rank for a in self.axes}
        long = [a for a in range(1, rank) if self.data.shape[a] != 1]
        return len(long) <= 1 and inside.issuperset(long) and 0 not in inside

    @property
    def over_last(self) -> bool:
        """Whether just the last axis is normalised."""
        return self.axes == (-1,) or (self.data.shape is not None and self.axes == (len(self.data.shape) - 1,))


def layer_norm(node: ir.Node, constants: Constants) -> LayerNorm | None:
    """The layer normalisation that ``node`` is, or that it, a division, ends (factor and shift then come behind it).

    None for any other node, and where epsilon, factor or shift are not constant.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "LayerNormalization":
        return _whole(node, constants)
    return _decomposed(node, constants) if node.op_type == "Div" else None


def _whole(node: ir.Node, constants: Constants) -> LayerNorm | None:
    data, *affine = node.inputs
    gamma, beta = (constants.value(v) for v in (*affine, None, None)[:2])
    fixed = all(v is None or constants.is_constant(v) for v in affine)
    if data is None or constants.is_constant(data) or not fixed:
        return None
    first = _attribute(node, "axis", -1)
    axes = (-1,) if first == -1 else tuple(range(first, len(data.shape or ()) if first > 0 else 0))
    return LayerNorm(_label(node), data, axes, float(_attribute(node, "epsilon", 1e-5)), gamma, beta)


def _decomposed(node: ir.Node, constants: Constants) -> LayerNorm | None:
    """``d / sqrt(mean(d^2) + epsilon)`` with ``d = x - mean(x)``."""
    moved, root = node.inputs
    total = _input_of(root, "Sqrt")
    parts = _inputs_of(total, "Add")
    variance = next((v for v in parts if not constants.is_constant(v)), None)
    epsilon = next((constants.value(v) for v in parts if constants.is_constant(v)), None)
    data, mean = (*_inputs_of(moved, "Sub"), None, None)[:2]
    if data is None or epsilon is None or epsilon.size != 1 or _input_of(mean, "ReduceMean") is not data:
        return None
    if not _is_square(_input_of(variance, "ReduceMean"), moved, constants):
        return None
    axes = _axes(mean, constants)
    if axes is None or axes != _axes(variance, constants):
        return None
    return LayerNorm("layer normalisation", data, axes, float(epsilon.reshape(-1)[0]))


def _is_square(value: ir.Value | None, base: ir.Value | None, constants: Constants) -> bool:
    """``base ** 2`` or ``base * base``."""
    if _inputs_of(value, "Mul") == (base, base):
        return True
    root, exponent = (*_inputs_of(value, "Pow"), None, None)[:2]
    power = constants.value(exponent)
    return root is base and power is not None and bool(np.all(power == 2))


def _axes(value: ir.Value | None, constants: Constants) -> tuple[int, ...] | None:
    """What a reduction that keeps its axes runs over."""
    node = None if value is None else value.producer()
    return reduced_axes(node, constants) if node is not None and _attribute(node, "keepdims", 1) else None


def reduced_axes(node: ir.Node, constants: Constants) -> tuple[int, ...] | None:
    """The axes of a reduction, an attribute or an input; None where they are not known."""
    axes = _attribute(node, "axes", None)
    if axes is None and len(node.inputs) > 1:
        axes = constants.value(node.inputs[1])
    return None if axes is None else tuple(int(a) for a in np.reshape(axes, -1))


def averaged_axes(node: ir.Node, constants: Constants, rank: int) -> set[int]:
    """What a mean, sum or maximum runs over; empty where that is not known, and for other operators."""
    if node.op_type not in ("ReduceMean", "ReduceSum", "ReduceMax") or rank == 0:
        return set()
    return {a % rank for a in reduced_axes(node, constants) or ()}


def is_norm_step(node: ir.Node, axes: set[int], rank: int) -> bool:
    """A mean over the last axis that keeps it: a step of a normalisation written in many operators, no pooling."""
    return axes == {rank - 1} and bool(_attribute(node, "keepdims", 1))


def _inputs_of(value: ir.Value | None, op: str) -> tuple[ir.Value | None, ...]:
    """The inputs of the ``op`` that makes a value; none where something else makes it."""
    node = None if value is None else value.producer()
    return tuple(node.inputs) if node is not None and node.op_type == op else ()


def _input_of(value: ir.Value | None, op: str) -> ir.Value | None:
    return next(iter(_inputs_of(value, op)), None)


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value


def _label(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type
