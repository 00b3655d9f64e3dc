"""One operator's gradient nodes against torch's autograd on the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from onnx_vjp import SEED, Feed, by_nodes, node_model

DRAWS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY_DRAWS = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
OPSETS = (9, 10, 11, 13, 16, 18, 20, 22)


def noise(*shape: int, seed: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def error(found: NDArray[Any], expected: NDArray[Any], least: float = 1e-6) -> float:
    """The largest difference, relative to the largest number or ``least``; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0)), least)
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0)) / scale


def error_against_torch(
    model: onnx.ModelProto,
    feed: Feed,
    function: Callable[..., torch.Tensor],
    *,
    least: float = 1e-6,
    output: int = 0,
    **options: Any,
) -> float:
    """The largest relative error of the output and of the gradient of any input, which have the shapes of PyTorch's.

    Parameters
    ----------
    model : onnx.ModelProto
    feed : dict
        Its inputs.
    function : callable
        The same in PyTorch; it takes the inputs in the order of ``feed``.
    least : float
        Errors of smaller gradients are relative to this: a slope of 1 - y² is no better than the rounding of 1.
    output : int
        Which of the model's.
    **options
        Of :func:`onnx_vjp.by_nodes`.
    """
    outputs, gradients = by_nodes(model, feed, output=output, **options)
    tensors = {n: torch.tensor(a.astype(np.float64) if a.dtype.kind == "f" else a) for n, a in feed.items()}
    for name in gradients:
        tensors[name].requires_grad_()
    result = function(*tensors.values())
    wanted = [tensors[name] for name in gradients]
    pulled = torch.autograd.grad(result, wanted, torch.tensor(outputs[SEED]).double(), materialize_grads=True)
    found = [outputs[model.graph.output[output].name], *gradients.values()]
    return max(error(f, e.detach().numpy(), least) for f, e in zip(found, [result, *pulled], strict=True))


def torch_error(
    function: Callable[..., torch.Tensor],
    op: str,
    inputs: Feed,
    *,
    wanted: Sequence[str] = ("x",),
    output: int = 0,
    probe: Feed | None = None,
    **options: Any,
) -> float:
    """The largest error of output and gradients of a node.

    Parameters
    ----------
    function : callable
        The same operator in torch, of the tensors wanted.
    op, inputs, options
        See :func:`onnx_vjp.node_model`.
    wanted : sequence of str
        Names of the inputs that are differentiated.
    output : int
        Whose gradient is pulled back.
    probe : dict, optional
        The same inputs in other lengths: those that differ are free.
    """
    free = probe is not None
    model = node_model(op, inputs, wanted=list(wanted), free=free, **options)
    feed = {n: inputs[n] for n in wanted}
    probes = [{n: probe[n] for n in wanted}] if probe is not None else []
    return error_against_torch(model, feed, function, output=output, probes=probes)
