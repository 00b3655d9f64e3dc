"""CAM: the features weighted by the head, and the sum over channels that most methods end with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods.table import Method, register
from camcore.products import SMALL

__all__ = ["cam", "combine", "floating"]

Floats = NDArray[np.floating[Any]]


def cam(features: Floats, head: LinearHead, classes: NDArray[np.integer[Any]] | None = None) -> Floats:
    """Class activation map: the features weighted by the head's row of a class.

    ``M_c(u) = sum_k W_ck A_k(u)``, so that ``mean(M_c) + b_c`` is the score of class c.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        The tensor that the global average pooling reads, with 1, 2 or 3 spatial axes.
    head : LinearHead
        C channels to K classes.
    classes : (N, T) integer ndarray, optional
        The classes of each image; all K where absent.

    Returns
    -------
    (N, T, *S) ndarray
        Raw and signed; no ReLU and no scaling, as in the paper.

    Raises
    ------
    InputError
        If the features do not have the head's channels.

    References
    ----------
    B. Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, arXiv:1512.04150

    Examples
    --------
    >>> A = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> cam(A, LinearHead([[1.0, 10.0]]))
    array([[[31., 42.]]])
    """
    if features.ndim < 3 or features.shape[1] != head.channels:
        raise InputError(
            f"features have shape {features.shape}; the head reads (N, {head.channels}, *S) with 1 to 3 spatial axes"
        )
    n, channels, *space = features.shape
    flat = floating(features).reshape(n, channels, -1)
    maps = _gather(flat, classes) if head.is_identity else _weigh(flat, head.weight, classes)
    return maps.reshape(n, maps.shape[1], *space)


def _gather(flat: Floats, classes: NDArray[np.integer[Any]] | None) -> Floats:
    return flat if classes is None else np.take_along_axis(flat, classes[:, :, None], axis=1)


def _weigh(flat: Floats, weight: Floats, classes: NDArray[np.integer[Any]] | None) -> Floats:
    if classes is None:
        return _side_by_side(weight, flat)
    if classes.shape[1] * flat.size <= SMALL:
        return np.einsum("ntc,ncs->nts", weight[classes], flat)
    if (classes == classes[0]).all():
        return _side_by_side(weight[classes[0]], flat)
    return np.stack([np.matmul(weight[some], image) for some, image in zip(classes, flat, strict=True)])


def _side_by_side(weight: Floats, flat: Floats) -> Floats:
    """``weight @ flat[n]`` for all n as one product, half again as fast as a batch of small ones."""
    n, channels, positions = flat.shape
    if n == 1:
        return np.matmul(weight, flat)
    wide = np.matmul(weight, flat.transpose(1, 0, 2).reshape(channels, -1))
    return np.ascontiguousarray(wide.reshape(-1, n, positions).transpose(1, 0, 2))


def floating(array: Floats) -> Floats:
    """float32 and float64 as they are, anything else as float32."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def combine(weights: Floats, features: Floats) -> Floats:
    """``sum_k w_k(u) A_k(u)``: what most methods end with.

    Parameters
    ----------
    weights : (N, T, C) or (N, T, C, *S) ndarray
        Spatial axes of length one mean the same weight everywhere.
    features : (N, C, *S) ndarray

    Returns
    -------
    (N, T, *S) ndarray

    Examples
    --------
    >>> combine(np.array([[[1.0, 10.0]]]), np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    array([[[31., 42.]]])
    """
    n, channels, *space = features.shape
    flat = floating(features).reshape(n, channels, -1)
    rows = floating(weights).reshape(*weights.shape[:3], -1)
    if rows.shape[3] == 1:
        rows = rows[..., 0]
        small = rows.size * flat.shape[2] <= SMALL
        maps = np.einsum("ntc,ncs->nts", rows, flat) if small else np.matmul(rows, flat)
    else:
        maps = np.einsum("ntcs,ncs->nts", rows, flat)
    return maps.reshape(n, maps.shape[1], *space)


register(
    Method(
        name="cam",
        formula=cam,
        needs=frozenset({"features", "head"}),
        rectifies=False,
        paper="arXiv:1512.04150",
        summary="features weighted by the head's row of the class",
        alike="E1",
        from_class_maps=lambda class_maps: class_maps,
    )
)
