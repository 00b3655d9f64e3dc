"""The formulas of the methods as nodes, so that nothing but the map leaves the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from camcore.layout import Layout
from camcore.methods.gradients import grad_cam, grad_cam_elementwise, hires_cam, layer_cam, shapley_cam, xgrad_cam
from camcore.methods.plusplus import grad_cam_plus_plus
from camcore.methods.table import Method
from camcore_onnx.gradients.tensor import Lengths, Tensor

__all__ = ["can_finish", "finish", "is_even", "places"]

Finish = Callable[..., Tensor]


def _combine(weights: Tensor, features: Tensor) -> Tensor:
    """``sum_k w_k A_k``: (N, T, C, P or 1) and (N, C, P) to (N, T, P)."""
    if weights.shape[3] == 1:
        return weights.squeeze(3).matmul(features)
    return (weights * features.unsqueeze(1)).sum(2, keep=False)


def _relu(x: Tensor) -> Tensor:
    return x.unary("Relu")


def _mean(x: Tensor) -> Tensor:
    return x if x.shape[3] == 1 else x.mean(3)


def _quotient(part: Tensor, whole: Tensor) -> Tensor:
    """Zero where ``whole`` is zero."""
    none = whole.equals(0.0)
    return none.where(0.0, part / none.where(1.0, whole))


def _grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    return _combine(_mean(gradients), features)


def _hires_cam(features: Tensor, gradients: Tensor) -> Tensor:
    return _combine(gradients, features)


def _layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    return _combine(_relu(gradients), features)


def _elementwise(features: Tensor, gradients: Tensor) -> Tensor:
    if gradients.shape[3] != 1:
        return _relu(gradients * features.unsqueeze(1)).sum(2, keep=False)
    both = _combine(_relu(gradients), _relu(features))
    return both + _combine(_relu(-gradients), _relu(-features))


def _xgrad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    if gradients.shape[3] == 1:
        return _combine(gradients, features)
    pulled = (gradients * features.unsqueeze(1)).sum(3)
    return _combine(_quotient(pulled, features.unsqueeze(1).sum(3)), features)


def _plus_plus(features: Tensor, gradients: Tensor) -> Tensor:
    positive, total = _relu(gradients), features.unsqueeze(1).sum(3)
    alphas = _quotient((positive > 0).cast(positive.dtype), 2 + total * gradients)
    weights = alphas * positive
    summed = weights * features.count(2) if weights.shape[3] == 1 else weights.sum(3)
    return _combine(summed, features)


def _shapley_cam(features: Tensor, gradients: Tensor, curvature: Tensor) -> Tensor:
    return _combine(_mean(gradients) - _mean(curvature) * 0.5, features)


_FINISHES: Mapping[Any, Finish] = MappingProxyType(
    {
        grad_cam: _grad_cam,
        hires_cam: _hires_cam,
        layer_cam: _layer_cam,
        grad_cam_elementwise: _elementwise,
        xgrad_cam: _xgrad_cam,
        grad_cam_plus_plus: _plus_plus,
        shapley_cam: _shapley_cam,
    }
)


def can_finish(method: Method) -> bool:
    """Whether a method's formula exists as nodes, with the options that it has."""
    return method.formula in _FINISHES and method.options.get("variant", "paper") == "paper"


def finish(method: Method, features: Tensor, gradients: Tensor, curvature: Tensor | None = None) -> Tensor:
    """The raw map (N, T, P) of (N, C, P) features and (N, T, C, P or 1) gradients.

    The same formulas as in :mod:`camcore.methods`, written in operators of the graph.
    """
    more = [] if curvature is None else [curvature]
    return _FINISHES[method.formula](features, gradients, *more)


def is_even(gradient: Lengths, layer: Lengths, kind: str = "") -> bool:
    """Whether a gradient is as long as the layer, or short along all axes of space and no other.

    ``kind`` is that of the layout; where it is not known, channels may be the first or the last axis behind the batch.
    """
    rank = len(layer)
    spaces = [] if kind in ("last", "tokens") else [set(range(2, rank))]
    spaces += [] if kind == "first" else [set(range(1, rank - 1))]
    long = {axis for axis, n in enumerate(layer) if n != 1}
    short = {axis for axis in long if gradient[axis] == 1}
    return not short or any(short == long & space for space in spaces)


def places(tensor: Tensor, layout: Layout, *, lead: int = 1) -> Tensor:
    """Features or gradients as the network holds them, with channels and then all positions: (*L, C, P).

    Spatial axes of length one, of a gradient that is the same everywhere, stay one position.
    """
    front = range(lead)
    if layout.kind == "tokens" and layout.prefix and tensor.shape[lead] != 1:
        tensor = tensor.slice(lead, layout.prefix, np.iinfo(np.int32).max)
    if layout.kind != "first":
        tensor = tensor.transpose(*front, tensor.rank - 1, *range(lead, tensor.rank - 1))
    if tensor.rank == lead + 2:
        return tensor
    fixed = [n for n in tensor.shape[lead + 1 :] if n is not None]
    flat = int(np.prod(fixed)) if len(fixed) == tensor.rank - lead - 1 else None
    lengths = [tensor.length(a) if n is None else n for a, n in enumerate(tensor.shape[: lead + 1])]
    if sum(isinstance(n, Tensor) for n in lengths) == 1 and flat is not None:
        return tensor.reshape(
            *(-1 if isinstance(n, Tensor) else n for n in lengths), flat, shape=(*tensor.shape[: lead + 1], flat)
        )
    return tensor.reshape(*lengths, -1 if flat is None else flat, shape=(*tensor.shape[: lead + 1], flat))
