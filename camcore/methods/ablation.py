"""Methods that take parts of the features away and look at what is left of the target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.head import global_mean
from camcore.methods.probes import Probe, Scene
from camcore.methods.table import Method, register
from camcore.methods.weights import combine
from camcore.products import product

__all__ = ["ablation_cam", "kernel_weights", "lift_cam", "recipro_cam"]

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]] | None

# How much of the feature at one position lies on its neighbours along one axis, and on itself.
_KERNELS = {"pixel": (0.0, 1.0), "gaussian": (0.25, 0.5)}


def ablation_cam(features: Floats, responses: Floats, classes: Classes = None, *, relative: bool = False) -> Floats:
    """Ablation-CAM before its ReLU: each channel weighted by what the target loses without it.

    ``w_k = y - y^(-k)``, ``M(u) = sum_k w_k A_k(u)``, where ``y^(-k)`` is the target with channel k set to zero.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    responses : (N, T, 1 + C) ndarray
        The target y of the untouched features, then ``y^(-k)`` for each channel. All by one route: a y that comes
        from elsewhere differs by its rounding, and that difference would be added to the weight of every channel.
    classes : (N, T) integer ndarray, optional
        Not used: the responses know.
    relative : bool
        Divide by y, as the paper does. This only scales a map, but turns its sign for a negative y, so it is not the
        default. A y of zero, or one so small that the quotient would overflow, is not divided by.

    Returns
    -------
    (N, T, *S) ndarray
        Zero where no channel changes the target by more than rounding. On a linear head it is of second degree in the
        features: those of float32 below about 1e-19 give zeros, beyond 1e19 infinities and NaN.

    References
    ----------
    S. Desai and H. G. Ramaswamy, "Ablation-CAM: visual explanations for deep convolutional network via gradient-free
    localization", WACV 2020, doi:10.1109/WACV45572.2020.00104

    Examples
    --------
    >>> A = np.array([[[1.0, 3.0], [0.0, 2.0]]])
    >>> ablation_cam(A, np.array([[[5.0, 3.0, 6.0]]]))
    array([[[2., 4.]]])
    """
    whole, without = responses[:, :, :1], responses[:, :, 1:]
    drops: Floats = whole - without
    if relative:
        drops = _relative(drops, whole)
    return combine(drops.astype(_precision(features), copy=False), features)


def _relative(drops: Floats, whole: Floats) -> Floats:
    least = np.finfo(drops.dtype).tiny * np.abs(drops).max(axis=2, keepdims=True)
    return np.divide(drops, whole, out=drops.copy(), where=np.abs(whole) > least)


def _precision(features: Floats) -> np.dtype[Any]:
    """What is computed in: float64 for float64, else float32."""
    return np.result_type(features.dtype, np.float32)


def _untouched_and_channels(scene: Scene, **_: Any) -> int:
    return 1 + len(scene.features)


def _without_channels(scene: Scene, index: Sequence[int], **_: Any) -> Floats:
    inputs = np.repeat(scene.features[None], len(index), axis=0)
    for made, k in zip(inputs, index, strict=True):
        if k > 0:
            made[k - 1] = 0
    return inputs


def _linear_without_channels(features: Floats, weight: Floats, bias: Floats, **_: Any) -> Floats:
    """In float64, since the drops are small differences of large scores."""
    parts = weight * global_mean(features[None]).astype(np.float64)
    whole = parts.sum(axis=1, keepdims=True) + bias[:, None]
    return np.concatenate([whole, whole - parts], axis=1)


def _pooled_without_channels(features: Floats, **_: Any) -> Floats:
    pooled = np.repeat(global_mean(features[None]), 1 + len(features), axis=0)
    np.fill_diagonal(pooled[1:], 0)
    return pooled


def lift_cam(features: Floats, contributions: Floats, classes: Classes = None) -> Floats:
    """LIFT-CAM before its ReLU: each channel weighted by its DeepLIFT contribution to the target.

    ``M(u) = sum_k a_k A_k(u)`` with ``a_k = sum_u m_k(u) A_k(u)``, where m are the DeepLIFT multipliers of whatever
    follows the layer, and features of zero the reference.

    The contributions of all channels together are what the target loses when the whole layer is set to zero. On a
    linear head behind a global average pooling channel k contributes its weight times its mean, ``W_ck F_k``; these
    are then Shapley values too, and the weights of Ablation-CAM.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    contributions : (N, T, C) ndarray
    classes : (N, T) integer ndarray, optional
        Not used: the contributions know.

    Returns
    -------
    (N, T, *S) ndarray
        It is of second degree in the features: those of float32 below about 1e-19 give zeros, beyond 1e19 infinities
        and NaN.

    References
    ----------
    H. Jung and Y. Oh, "Towards better explanations of class activation mapping", ICCV 2021, arXiv:2102.05228.
    It explains scores; so targets that are not linear in the scores are refused here, for DeepLIFT has no one rule
    for them.

    Examples
    --------
    >>> lift_cam(np.array([[[1.0, 3.0], [0.0, 2.0]]]), np.array([[[2.0, 10.0]]]))
    array([[[ 2., 26.]]])
    """
    return combine(contributions.astype(_precision(features), copy=False), features)


def recipro_cam(features: Floats, responses: Floats, classes: Classes = None, *, kernel: str = "pixel") -> Floats:
    """Recipro-CAM: at each position the target of the features of that position alone.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        Only the shape counts here; see ``kernel`` for what the tail is shown.
    responses : (N, T, P) ndarray
        The target of input u, one for each of the P positions, the last axis running fastest.
    classes : (N, T) integer ndarray, optional
        Not used: the responses know.
    kernel : {"pixel", "gaussian"}
        Input u has the features of position u at u and zeros elsewhere (``pixel``), or spread over u and its
        neighbours by the outer product of (1/4, 1/2, 1/4) along each axis (``gaussian``), cut off at the border.
        The paper's 3 x 3 Gaussian is this product in two dimensions; in one and three it is the natural form of it.

    Returns
    -------
    (N, T, *S) ndarray
        As the target is: no ReLU. On a linear head behind a global average pooling ``pixel`` gives
        ``b_c + M_c(u) / P`` with M_c the class activation map. ``gaussian`` gives ``b_c + kappa(u) M_c(u) / P``,
        where kappa is the part of the product that is not cut off: 1 inside, 3/4 at an edge, 9/16 at a corner. So it
        darkens the border.

    References
    ----------
    S.-Y. Byun and W. Lee, "Recipro-CAM: fast gradient-free visual explanations for convolutional neural networks",
    arXiv:2209.14074. It explains probabilities; here the target is the user's, the score where he does not say.

    Examples
    --------
    >>> recipro_cam(np.zeros((1, 8, 2, 2)), np.array([[[1.0, 2.0, 3.0, 4.0]]]))
    array([[[[1., 2.],
             [3., 4.]]]])
    """
    maps = responses.reshape(*responses.shape[:2], *features.shape[2:])
    return maps.astype(_precision(features), copy=False)


def kernel_weights(kernel: str) -> tuple[float, float]:
    """What Recipro-CAM lays of a position on each neighbour along an axis, and on itself.

    Raises
    ------
    InputError
        If the kernel is not known.
    """
    if kernel not in _KERNELS:
        raise InputError(f"kernel {kernel!r} is not known. {suggest(str(kernel), _KERNELS)}")
    return _KERNELS[kernel]


def _windows(kernel: str, length: int) -> Floats:
    """(length, length): row u is what position u puts at each position of one axis."""
    aside, own = kernel_weights(kernel)
    return own * np.eye(length) + aside * (np.eye(length, k=1) + np.eye(length, k=-1))


def _positions(scene: Scene, **_: Any) -> int:
    return int(np.prod(scene.features.shape[1:]))


def _single_positions(scene: Scene, index: Sequence[int], *, kernel: str = "pixel") -> Floats:
    channels, *space = scene.features.shape
    count, ones = len(index), [1] * len(space)
    inputs = scene.features.reshape(channels, -1)[:, np.asarray(index, np.intp)].T.reshape(count, channels, *ones)
    for axis, at in enumerate(np.unravel_index(np.asarray(index, np.intp), space)):
        rows = _windows(kernel, space[axis])[at].astype(inputs.dtype)
        inputs = inputs * rows.reshape(count, 1, *ones[:axis], space[axis], *ones[axis + 1 :])
    return inputs


def _pooled_positions(features: Floats, *, kernel: str = "pixel") -> Floats:
    channels, *space = features.shape
    kept = reduce(np.multiply.outer, [_windows(kernel, length).sum(axis=1) for length in space])
    flat = features.reshape(channels, -1).astype(_precision(features), copy=False)
    return np.ascontiguousarray((flat * (kept.ravel() / kept.size).astype(flat.dtype)).T)


def _linear_positions(features: Floats, weight: Floats, bias: Floats, *, kernel: str = "pixel") -> Floats:
    return product(weight, _pooled_positions(features, kernel=kernel).T) + bias[:, None]


register(
    Method(
        name="ablationcam",
        formula=ablation_cam,
        needs=frozenset({"features", "tail"}),
        rectifies=True,
        paper="doi:10.1109/WACV45572.2020.00104",
        summary="features weighted by what the target loses without each channel",
        options={"relative": False},
        probe=Probe(
            where="tail",
            count=_untouched_and_channels,
            inputs=_without_channels,
            linear=_linear_without_channels,
            pooled=_pooled_without_channels,
            each="a channel",
        ),
        alike=lambda options: "" if options["relative"] else "E4",  # divided by a negative score it is the opposite
    )
)
register(
    Method(
        name="liftcam",
        formula=lift_cam,
        needs=frozenset({"features", "contributions"}),
        rectifies=True,
        paper="arXiv:2102.05228",
        summary="features weighted by each channel's DeepLIFT contribution to the target",
        alike="E4",
    )
)
register(
    Method(
        name="reciprocam",
        formula=recipro_cam,
        needs=frozenset({"features", "tail"}),
        rectifies=False,
        paper="arXiv:2209.14074",
        summary="target of the features of each position alone",
        options={"kernel": "pixel"},
        probe=Probe(
            where="tail",
            count=_positions,
            inputs=_single_positions,
            linear=_linear_positions,
            pooled=_pooled_positions,
            each="a position",
        ),
        alike=lambda options: "E1" if options["kernel"] == "pixel" else "",
    )
)
