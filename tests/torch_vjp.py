"""One operator's gradient nodes against torch's autograd on the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from onnx_vjp import SEED, Feed, by_nodes, node_model

DRAWS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY_DRAWS = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
OPSETS = (9, 10, 11, 13, 16, 18, 20, 22)


def noise(*shape: int, seed: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, relative to the largest number; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0)) / scale


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
    outputs, gradients = by_nodes(model, feed, output=output, probes=probes)
    tensors = [torch.tensor(inputs[n].astype(np.float64), requires_grad=True) for n in wanted]
    expected = function(*tensors)
    pulled = torch.autograd.grad(expected, tensors, torch.tensor(outputs[SEED]).double(), materialize_grads=True)
    name = model.graph.output[output].name
    errors = [error(outputs[name], expected.detach().numpy())]
    errors += [error(gradients[n], p.numpy()) for n, p in zip(wanted, pulled, strict=True)]
    return max(errors)
