"""What a pooled head tells without running anything: gradients, curvature, contributions, answers to probes.

With ``F`` the means of the features over their ``|S|`` positions and a target ``y = h(F)``, the gradient with respect
to the features is ``h_k / |S|`` at every position, so it is kept with spatial axes of length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.head import LinearHead, NormHead, global_mean
from camcore.methods.probes import Probe
from camcore.targets import Aim

__all__ = ["contributions", "curvature", "gradients", "moments", "responses"]

Floats = NDArray[np.floating[Any]]
Head = LinearHead | NormHead


def gradients(head: Head, features: Floats, aim: Aim) -> Floats:
    """The gradients of a target, (N, T, C, 1, ...)."""
    return _spread(_slopes(head, features, aim), features)


def curvature(head: Head, features: Floats, aim: Aim) -> Floats:
    """The Hessian of a target times the features, (N, T, C, 1, ...).

    ``H A`` is the derivative of the gradient as the features grow in proportion. It has two parts: the bend of the
    target over the scores, and that of the scores over the pooled features.
    """
    pooled = global_mean(features)
    bent = head.pull(pooled, aim.bend(head.growth(pooled))) + head.bend(pooled, aim.slopes())
    return _spread(bent, features)


def contributions(head: LinearHead, features: Floats, aim: Aim) -> Floats:
    """What each channel gives a target that is linear in the scores, (N, T, C): its slope times its mean.

    DeepLIFT, ablation of one channel and Shapley values all come to this on a linear head.
    """
    parts = _slopes(head, features, aim) * global_mean(features)[:, None]
    return parts.astype(np.result_type(features.dtype, np.float32), copy=False)


def moments(gradient: Floats) -> tuple[Floats, Floats, Floats]:
    """Means of the gradients, their squares and cubes over noisy images, where noise cannot change them."""
    exact = gradient.astype(np.float64)
    return exact, exact**2, exact**3


def responses(head: Head, probe: Probe, features: Floats, aim: Aim, options: Mapping[str, Any]) -> Floats:
    """The (N, T, P) target values of what a probe would show to the tail, in float64 where that costs nothing."""
    if isinstance(head, LinearHead) and probe.linear is not None:
        if aim.linear:
            return _linear_responses(head, probe, features, aim, options)
        scores = [probe.linear(image, head.weight, head.bias, **options).T for image in features]
    else:
        assert probe.pooled is not None  # the planner has seen to that
        scores = [head(probe.pooled(image, **options)) for image in features]
    return np.stack([aim.of(n, s).T for n, s in enumerate(scores)])


def _linear_responses(head: LinearHead, probe: Probe, features: Floats, aim: Aim, options: Mapping[str, Any]) -> Floats:
    assert probe.linear is not None
    rows = _slopes(head, features, aim)
    offsets = aim.slopes() @ head.bias if not aim.plain else head.bias[aim.classes]
    return np.stack([probe.linear(a, w, b, **options) for a, w, b in zip(features, rows, offsets, strict=True)])


def _slopes(head: Head, features: Floats, aim: Aim) -> Floats:
    """The (N, T, C) derivatives of the target with respect to the pooled features."""
    if isinstance(head, LinearHead) and aim.plain and not head.is_identity:
        return head.weight[aim.classes]
    return head.pull(global_mean(features), aim.slopes())


def _spread(slopes: Floats, features: Floats) -> Floats:
    """The same at every position: spatial axes of length one, divided by the number of positions."""
    space = features.shape[2:]
    even = slopes / np.prod(space, dtype=np.float64)
    return even.reshape(*slopes.shape, *(1 for _ in space)).astype(np.result_type(features.dtype, np.float32))
