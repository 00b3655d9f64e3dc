"""The papers of the methods on gradients, written as loops over plain numbers, and cases to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import strategies as st

from camcore.head import LinearHead
from camcore.methods import method
from camcore.methods.gradients import grad_cam, grad_cam_elementwise, hires_cam, layer_cam, xgrad_cam
from camcore.methods.plusplus import grad_cam_plus_plus

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
Flat = list[list[float]]


def weighted(weights: list[float], a: Flat) -> list[float]:
    """sum_k w_k A_k(u), u by u."""
    return [sum(w * channel[u] for w, channel in zip(weights, a, strict=True)) for u in range(len(a[0]))]


def paper_grad_cam(a: Flat, g: Flat) -> list[float]:
    """Equations 1 and 2 of Selvaraju et al., without the ReLU."""
    return weighted([sum(row) / len(row) for row in g], a)


def paper_grad_cam_plus_plus(a: Flat, g: Flat) -> list[float]:
    """Equations 19 and 5 of Chattopadhyay et al. without exp(s)."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        alphas = [x**2 / (2 * x**2 + total * x**3) if x > 0 else 0 for x in g_k]
        weights.append(sum(alpha * max(x, 0) for alpha, x in zip(alphas, g_k, strict=True)))
    return weighted(weights, a)


def code_grad_cam_plus_plus(a: Flat, g: Flat) -> list[float]:
    """misc/utils.py of the authors: the alphas of positive gradients are made to sum to one."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        alphas = [x**2 / (2 * x**2 + total * x**3) if x > 0 else 0 for x in g_k]
        one = sum(alphas) or 1
        weights.append(sum(alpha / one * max(x, 0) for alpha, x in zip(alphas, g_k, strict=True)))
    return weighted(weights, a)


def paper_xgrad_cam(a: Flat, g: Flat) -> list[float]:
    """Equation 8 of Fu et al."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        weights.append(sum(x * y / total for x, y in zip(a_k, g_k, strict=True)) if total else 0)
    return weighted(weights, a)


def paper_hires_cam(a: Flat, g: Flat) -> list[float]:
    return [sum(g_k[u] * a_k[u] for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


def paper_layer_cam(a: Flat, g: Flat) -> list[float]:
    return [sum(max(g_k[u], 0) * a_k[u] for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


def paper_elementwise(a: Flat, g: Flat) -> list[float]:
    return [sum(max(g_k[u] * a_k[u], 0) for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]
Paper = Callable[[Flat, Flat], list[float]]


def official(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return grad_cam_plus_plus(features, gradients, variant="official")


PAPERS: dict[Formula, Paper] = {
    grad_cam: paper_grad_cam,
    grad_cam_plus_plus: paper_grad_cam_plus_plus,
    official: code_grad_cam_plus_plus,
    xgrad_cam: paper_xgrad_cam,
    hires_cam: paper_hires_cam,
    layer_cam: paper_layer_cam,
    grad_cam_elementwise: paper_elementwise,
}
ALL = pytest.mark.parametrize("formula", PAPERS, ids=lambda f: f.__name__)


def case(space: tuple[int, ...], seed: int, *, rectified: bool = True, shape: tuple[int, int, int] = (2, 2, 3)):
    """Features, a third of them zero where rectified, and gradients of both signs, some exactly zero."""
    n, targets, channels = shape
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, channels, *space)) + 0.4
    gradients = rng.standard_normal((n, targets, channels, *space))
    gradients[rng.random(gradients.shape) < 0.1] = 0
    return np.maximum(features, 0) if rectified else features, gradients


def by_loops(paper: Paper, features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    n, targets, channels = gradients.shape[:3]
    maps = np.empty((n, targets, *features.shape[2:]))
    wide = np.broadcast_to(gradients, (n, targets, *features.shape[1:]))
    for i, t in np.ndindex(n, targets):
        a = features[i].reshape(channels, -1).tolist()
        maps[i, t] = np.reshape(paper(a, wide[i, t].reshape(channels, -1).tolist()), features.shape[2:])
    return maps


def spread(unit: np.ndarray, features: np.ndarray) -> np.ndarray:
    """A gradient that is the same everywhere, written out at every position."""
    return np.broadcast_to(unit, (*unit.shape[:3], *features.shape[2:])).copy()


def unit_of(gradients: np.ndarray) -> np.ndarray:
    return gradients[(..., *[slice(0, 1)] * (gradients.ndim - 3))]


def on_a_pooled_head(name: str, head: LinearHead, features: np.ndarray, classes: np.ndarray, **options) -> np.ndarray:
    """What a method gives there with the logit as target: ``g = W_c / |S|``, no curvature, noise without effect."""
    unit = head.weight[classes] / math.prod(features.shape[2:])
    g = unit.reshape(*unit.shape, *[1] * (features.ndim - 2))
    have = {"features": features, "gradients": g, "curvature": np.zeros_like(g), "moments": (g, g**2, g**3)}
    row = method(name, **options)
    return row.formula(classes=classes, **{need: have[need] for need in row.needs}, **row.options)


def pooled_case(space, seed: int) -> tuple[LinearHead, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    head = LinearHead(rng.standard_normal((4, 3)), rng.standard_normal(4))
    return head, np.maximum(rng.standard_normal((2, 3, *space)), 0), np.array([[0, 3], [2, 1]])


def peer_map(module: str, name: str, features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """pytorch-grad-cam's map of the first class: its functions look at nothing but the arrays."""
    kind = getattr(pytest.importorskip(f"pytorch_grad_cam.{module}"), name)
    me = SimpleNamespace()
    me.get_cam_weights = lambda *given: kind.get_cam_weights(me, *given)
    return kind.get_cam_image(me, None, None, None, features, gradients[:, 0], False)
