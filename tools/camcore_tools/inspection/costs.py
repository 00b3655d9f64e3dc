"""What each method would cost at a layer, in words and in forward passes of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from camcore.evidence import Backend, Tap
from camcore.methods import METHODS, Method
from camcore.methods.probes import Scene
from camcore.plan import Plan, Route, make_plan, possible

__all__ = ["methods_of", "passes"]

_LINEARISED = 3  # a Hessian times a vector: the tail's tangent, and the gradient of both
_DEEPLIFT = 2  # the tail at the reference, and back


def methods_of(backend: Backend, layer: str | None, share: float | None) -> dict[str, Any]:
    """Every method with what it costs, or why it cannot be computed.

    Parameters
    ----------
    backend : Backend
    layer : str or None
    share : float or None
        Of the model's compute, what lies behind the layer.
    """
    return {
        name: _refused(METHODS[name], why) if why else _planned(make_plan(name, backend, (layer,)), share)
        for name, why in possible(backend, layer).items()
    }


def _refused(row: Method, why: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"cost": None, "forward passes": None, "way": None, "same map as": [], "paper": row.paper}
    return {"possible": False, "why not": why, **facts}


def _planned(plan: Plan, share: float | None) -> dict[str, Any]:
    factor = passes(plan.method, plan.routes[0], share)
    facts = {"cost": plan.cost, "forward passes": None if factor is None else round(factor, 4), "way": plan.way}
    return {"possible": True, "why not": None, **facts, "same map as": list(plan.alike), "paper": plan.method.paper}


def passes(row: Method, route: Route, share: float | None) -> float | None:
    """The multiply-accumulates of a method for one image and class, over those of one forward pass.

    A backward pass of the tail counts as much as the tail: weights get no gradients. A Hessian times the features
    counts three tails, a DeepLIFT pass two. What a formula itself does with the features is not counted.

    Parameters
    ----------
    row : Method
    route : Route
    share : float or None
        What lies behind the layer. None where it is not known; then so is the result, where it matters.
    """
    tails, models = _extra_runs(row, route)
    if tails is None or models is None or (tails and share is None):
        return None
    return 1 + models + tails * (share or 0.0)


def _extra_runs(row: Method, route: Route) -> tuple[float | None, float | None]:
    """Runs of the tail, and runs of the whole model, beside the forward pass."""
    tails = models = 0.0
    if not route.closed:
        tails += _LINEARISED if "curvature" in row.needs else 1 if "gradients" in row.needs else 0
        tails += _DEEPLIFT if "contributions" in row.needs else 0
        if "moments" in row.needs:
            samples = float(row.options.get("samples", 1))
            tails, models = tails + samples, models + samples
    if row.probe is None or (route.closed and row.probe.where == "tail"):
        return tails, models
    runs = _runs(row, route.tap)
    if runs is None:
        return None, None
    return (tails + runs, models) if row.probe.where == "tail" else (tails, models + runs)


def _runs(row: Method, tap: Tap) -> int | None:
    """How many inputs the method shows, for features of the layer's shape."""
    lengths = [n for n in tap.shape if n is not None]
    if row.probe is None or not lengths or len(lengths) != len(tap.shape):
        return None
    scene = Scene(np.zeros((1, 1, 1), np.float32), np.broadcast_to(np.float32(0), lengths))
    return row.probe.count(scene, **row.options)
