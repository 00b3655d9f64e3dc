"""What autograd says of one operator, against the gradient nodes in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx_vjp import SEED, Feed, by_nodes


def error_against_torch(
    model: onnx.ModelProto, feed: Feed, function: Callable[..., torch.Tensor], *, least: float = 0.0, **options: Any
) -> float:
    """The largest relative error of the output and of the gradient of any input, which have the shapes of PyTorch's.

    Parameters
    ----------
    model : onnx.ModelProto
        Of one output.
    feed : dict
        Its inputs.
    function : callable
        The same in PyTorch; it takes the inputs in the order of ``feed``.
    least : float
        Errors of smaller gradients are relative to this: a slope of 1 - y² is no better than the rounding of 1.
    **options
        Of :func:`onnx_vjp.by_nodes`.
    """
    outputs, gradients = by_nodes(model, feed, **options)
    tensors = {n: torch.tensor(a.astype(np.float64) if a.dtype.kind == "f" else a) for n, a in feed.items()}
    for name in gradients:
        tensors[name].requires_grad_()
    result = function(*tensors.values())
    result.backward(torch.tensor(outputs[SEED], dtype=torch.float64))
    expected = [result.detach(), *(_gradient(tensors[n]) for n in gradients)]
    found = [outputs[model.graph.output[0].name], *gradients.values()]
    return max(_error(f, e.numpy(), least) for f, e in zip(found, expected, strict=True))


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _error(found: NDArray[Any], expected: NDArray[Any], least: float) -> float:
    assert found.shape == expected.shape, f"{found.shape} instead of {expected.shape}"
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    return worst / max(float(np.abs(expected).max()), least, 1e-30) if worst else 0.0
