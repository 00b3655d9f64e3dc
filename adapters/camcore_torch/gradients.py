"""Derivatives of a target with respect to layers, by ``torch.autograd.grad``: nothing accumulates anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcore.errors import CamError, MethodNotPossible
from camcore.targets import Aim
from camcore_torch.steps import array

__all__ = ["curvatures", "gradients", "twice"]

Floats = NDArray[np.floating[Any]]

# Half precision loses what is below 6e-8: gradients are taken of the target times this, and divided in float32.
_LIFT = 1024.0


_attending = threading.RLock()


@contextmanager
def twice() -> Iterator[None]:
    """Context for a forward pass that is differentiated twice: PyTorch's fused attention has only one derivative.

    The switch is one of the whole process, so one thread at a time is let in.
    """
    with _attending, sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """What goes wrong in a backward pass, for a network's own operations raise what they like."""
    try:
        yield
    except (CamError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [repr(error)])[0]
        raise MethodNotPossible(
            f"the network behind the layer cannot be differentiated: {text.rstrip('.')}; choose another layer, or a "
            "method without gradients: ablationcam, reciprocam, scorecam"
        ) from error


@_explained()
def gradients(scores: Tensor, edges: Sequence[GradientEdge], aim: Aim) -> list[Floats]:
    """For each layer the (N, T, *native) gradients of the target of each class.

    Parameters
    ----------
    scores : (N, K) tensor with a graph
    edges : sequence of GradientEdge
        Of the layers.
    aim : Aim

    Raises
    ------
    MethodNotPossible
        If the network cannot be differentiated, or no gradient arrives.
    """
    seeds = torch.as_tensor(aim.slopes()).movedim(1, 0)
    if scores.dtype != torch.float16:
        return _pulled(scores, edges, seeds)
    lifted = _pulled(scores, edges, seeds * _LIFT)
    if all(np.isfinite(g).all() for g in lifted):
        return [g / np.float32(_LIFT) for g in lifted]
    return _pulled(scores, edges, seeds)


def _pulled(scores: Tensor, edges: Sequence[GradientEdge], seeds: Tensor) -> list[Floats]:
    seeds = seeds.to(scores.device, scores.dtype)
    rows = _all_at_once(scores, edges, seeds) if len(seeds) > 1 else _one_by_one(scores, edges, seeds)
    return [array(row.movedim(0, 1)) for row in rows]


def _all_at_once(scores: Tensor, edges: Sequence[GradientEdge], seeds: Tensor) -> list[Tensor]:
    """All classes in one batched backward pass; one by one where an operation has no batched form."""
    try:
        found = torch.autograd.grad(
            [scores], list(edges), [seeds], retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except Exception:  # an operation of the network's own may raise anything; alone it will tell what is wrong
        return _one_by_one(scores, edges, seeds)
    return [_reached(gradient) for gradient in found]


def _one_by_one(scores: Tensor, edges: Sequence[GradientEdge], seeds: Tensor) -> list[Tensor]:
    rows = [torch.autograd.grad([scores], list(edges), [seed], retain_graph=True, allow_unused=True) for seed in seeds]
    return [torch.stack([_reached(gradient) for gradient in column]) for column in zip(*rows, strict=True)]


def _reached(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise MethodNotPossible(
            "no gradient arrives at the layer: the scores do not depend on the layer, or the network detaches what "
            "comes from it; choose another layer, or a method without gradients: ablationcam, reciprocam, scorecam"
        )
    return gradient


@_explained()
def curvatures(scores: Tensor, edges: Sequence[GradientEdge], values: Sequence[Tensor], aim: Aim) -> list[Floats]:
    """For each layer the (N, T, *native) Hessian of the target times the layer's values.

    The Hessian has two parts: the bend of the target over the scores, and the bend of the scores over the layer.
    """
    return [_curvature(scores, edge, value, aim) for edge, value in zip(edges, values, strict=True)]


def _curvature(scores: Tensor, edge: GradientEdge, value: Tensor, aim: Aim) -> Floats:
    bend = torch.as_tensor(aim.bend(array(_forward(scores, edge, value)).astype(np.float64)))
    slopes = torch.as_tensor(aim.slopes())
    columns = []
    for t in range(slopes.shape[1]):
        outer = _one_by_one(scores, [edge], bend[None, :, t].to(scores.device, scores.dtype))[0][0]
        columns.append(outer + _inner(scores, edge, value, slopes[:, t].to(scores.device, scores.dtype)))
    return array(torch.stack(columns, dim=1))


def _forward(scores: Tensor, edge: GradientEdge, direction: Tensor) -> Tensor:
    """The derivative of the scores along a direction of the layer, (N, K): twice backward is once forward."""
    dummy = torch.zeros_like(scores, requires_grad=True)
    pulled = _reached(torch.autograd.grad([scores], [edge], [dummy], create_graph=True, allow_unused=True)[0])
    found = torch.autograd.grad([pulled], [dummy], [direction], retain_graph=True, allow_unused=True)[0]
    if found is None:
        raise MethodNotPossible(
            "an operation behind the layer can be differentiated only once, and curvature needs it twice; choose "
            "another layer, or a method without curvature: gradcam, hirescam"
        )
    return found


def _inner(scores: Tensor, edge: GradientEdge, direction: Tensor, seed: Tensor) -> Tensor:
    """The Hessian of ``seed . scores`` times the direction; zero where the scores are linear in the layer."""
    gradient = torch.autograd.grad([scores], [edge], [seed], create_graph=True)[0]
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    bent = torch.autograd.grad([gradient], [edge], [direction], retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(gradient) if bent is None else bent
