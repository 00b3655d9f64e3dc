"""Grad-CAM++ and Smooth Grad-CAM++: positive gradients, with a weight of their own at each position."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.methods.gradients import fitting, mean, quotient, relu
from camcore.methods.table import Method, register
from camcore.methods.weights import combine, floating

__all__ = ["grad_cam_plus_plus", "smooth_grad_cam_plus_plus"]

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]] | None


def grad_cam_plus_plus(
    features: Floats, gradients: Floats, classes: Classes = None, *, variant: str = "paper"
) -> Floats:
    """Grad-CAM++ before its ReLU: positive gradients, with a weight of their own at each position.

    With ``S_k = sum_u A_k(u)``, ``a_k(u) = g^2 / (2 g^2 + S_k g^3)`` and ``w_k = sum_u a_k(u) ReLU(g_k(u))``, the map
    is ``sum_k w_k A_k``. This is the paper's equation 19 for ``Y = exp(s)``, whose factor ``exp(s) > 0`` is common to
    the map and left out.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    gradients : (N, T, C, *S) ndarray
        Spatial axes may be of length one.
    classes : (N, T) integer ndarray, optional
        Not used.
    variant : {"paper", "official"}
        ``official`` is the authors' code: it divides the ``a_k(u)`` where the gradient is positive by their sum, so
        that a gradient that is the same everywhere is the weight itself, as in LayerCAM.

    Returns
    -------
    (N, T, *S) ndarray

    Raises
    ------
    InputError
        For an unknown variant, or if the gradients do not fit the features.

    Notes
    -----
    ``a ReLU(g)`` is computed as ``ReLU(g) / (2 + S_k g)``: no epsilon, no powers that underflow, and gradients of 1e-30
    are as good as those of 1. With features after a ReLU the denominator is at least 2. Features of SiLU or GELU can
    have ``S_k < 0``; the paper does not speak of them. There the formula stands as it is: weights turn negative beyond
    ``g = -2 / S_k`` and are large near it; where the denominator is zero the weight is zero.

    References
    ----------
    A. Chattopadhyay et al., "Grad-CAM++: generalized gradient-based visual explanations for deep convolutional
    networks", WACV 2018, arXiv:1710.11063; code: adityac94/Grad_CAM_plus_plus

    Examples
    --------
    >>> A = np.array([[[1.0, 2.0]]])
    >>> g = np.array([[[[1.0, -1.0]]]])
    >>> grad_cam_plus_plus(A, g)
    array([[[0.2, 0.4]]])
    >>> grad_cam_plus_plus(A, g, variant="official")
    array([[[1., 2.]]])
    """
    if variant not in _VARIANTS:
        raise InputError(f"variant {variant!r} of gradcam++ is not known. {suggest(variant, _VARIANTS)}")
    gradients = fitting(gradients, features)
    positive = relu(gradients)
    alphas = quotient(np.sign(positive), 2 + _totals(features) * gradients)
    return combine(_VARIANTS[variant](alphas, positive, features), features)


def _paper(alphas: Floats, positive: Floats, features: Floats) -> Floats:
    return _sum(alphas * positive, features)


def _official(alphas: Floats, positive: Floats, features: Floats) -> Floats:
    total = mean(alphas)
    return mean(alphas * positive) / np.where(total != 0, total, 1)


_VARIANTS: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = MappingProxyType(
    {"paper": _paper, "official": _official}
)


def smooth_grad_cam_plus_plus(
    features: Floats,
    moments: tuple[Floats, Floats, Floats],
    classes: Classes = None,
    *,
    samples: int = 4,
    spread: float = 0.3,
    seed: int = 0,
) -> Floats:
    """Smooth Grad-CAM++ before its ReLU: Grad-CAM++ with powers of the gradient averaged over noisy images.

    ``a_k(u) = m2 / (2 m2 + S_k m3)``, ``w_k = sum_u a_k(u) ReLU(m1)``, with the features of the clean image.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        Of the images without noise.
    moments : three (N, T, C, *S) ndarrays
        Means over the noisy images of the gradient, its square and its cube; spatial axes may be of length one.
    classes : (N, T) integer ndarray, optional
        Not used.
    samples : int
        Noisy images. They are made before the moments; so this and what follows changes nothing here.
    spread : float
        Standard deviation of the noise.
    seed : int
        Of the noise.

    Returns
    -------
    (N, T, *S) ndarray

    Raises
    ------
    InputError
        If the moments are not three, or do not fit the features.

    Notes
    -----
    Computed in float64 as ``1 / (2 + S_k m3 / m2)``, the ratio being zero where ``m2`` is: it is no larger than the
    largest gradient, so cubes and squares that underflow lose nothing. Without noise it is Grad-CAM++. The paper prints
    the first derivative as numerator of ``a``, which would not be; the second is meant, as in Grad-CAM++.
    Of features that sum to less than zero: see :func:`grad_cam_plus_plus`.

    References
    ----------
    D. Omeiza et al., "Smooth Grad-CAM++: an enhanced inference level visualization technique for deep convolutional
    neural network models", arXiv:1908.01224
    """
    if len(moments) != 3:
        raise InputError(f"moments are {len(moments)} arrays; expected the means of g, g^2 and g^3")
    first, second, third = (fitting(m, features, "moments").astype(np.float64, copy=False) for m in moments)
    positive = relu(first)
    alphas = quotient(np.sign(positive), 2 + _totals(features) * quotient(third, second))
    weights = _paper(alphas, positive, features)
    return combine(weights.astype(floating(features).dtype), features)


def _sum(array: Floats, features: Floats) -> Floats:
    """Over the positions of the features, also where the array has spatial axes of length one."""
    return mean(array) * math.prod(features.shape[2:])


def _totals(features: Floats) -> Floats:
    """``S_k``, as (N, 1, C, 1, ...) to stand beside gradients."""
    return floating(features).sum(axis=tuple(range(2, features.ndim)), keepdims=True)[:, None]


register(
    Method(
        name="gradcam++",
        formula=grad_cam_plus_plus,
        needs=frozenset({"features", "gradients"}),
        rectifies=True,
        paper="arXiv:1710.11063",
        summary="positive gradients, weighted position by position",
        options=MappingProxyType({"variant": "paper"}),
        alike=lambda options: {"paper": "E3", "official": "E2"}.get(options["variant"], ""),
    )
)
register(
    Method(
        name="smoothgradcam++",
        formula=smooth_grad_cam_plus_plus,
        needs=frozenset({"features", "moments"}),
        rectifies=True,
        paper="arXiv:1908.01224",
        summary="Grad-CAM++ with gradients averaged over noisy images",
        options=MappingProxyType({"samples": 4, "spread": 0.3, "seed": 0}),
        alike="E3",
    )
)
