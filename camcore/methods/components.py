"""Methods that project the features on their first principal component.

The sign of a component is free; here it is such that the map agrees with the sum over channels of what was projected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest
from camcore.methods.activations import for_every_class
from camcore.methods.gradients import fitting
from camcore.methods.table import Method, register
from camcore.methods.weights import floating
from camcore.products import product
from camcore.walk import times

__all__ = ["eigen_cam", "eigen_grad_cam", "kpca_cam"]

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Classes = NDArray[np.integer[Any]] | None

MOST_POSITIONS = 5000  # of kernel PCA, whose matrix of all pairs has 200 MB then


def eigen_cam(features: Floats, classes: Classes = None, *, centred: bool = False) -> Floats:
    """Eigen-CAM: the features of each position, projected on their first principal component.

    With the features as a matrix X of positions by channels, the map is ``X v_1``, where ``v_1`` is the first right
    singular vector.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        With 1, 2 or 3 spatial axes.
    classes : (N, T) integer ndarray, optional
        Only its shape counts: the same map is given for every class.
    centred : bool
        Take the mean over positions off each channel first. The paper does not; pytorch-grad-cam does.

    Returns
    -------
    (N, T, *S) ndarray
        Computed in float64, image by image. Not negative for features that are not negative, unless centred. Its inner
        product with ``sum_k A_k`` is not negative; where that is zero, the sign means nothing. Where the first two
        singular values are equal, any mixture of the two components would do. Zeros where all (centred) features are
        zero, NaN where one is not finite.

    References
    ----------
    M. B. Muhammad and M. Yeasin, "Eigen-CAM: class activation map using principal components", IJCNN 2020,
    arXiv:2008.00299

    Examples
    --------
    >>> eigen_cam(np.array([[[3.0, 0.0, 6.0], [4.0, 0.0, 8.0]]])).round(9)
    array([[[ 5.,  0., 10.]]])
    """
    maps = np.stack([_first(image, centred) for image in _double(features)])
    return for_every_class(_like(features, maps), classes)


def eigen_grad_cam(features: Floats, gradients: Floats, classes: Classes = None, *, centred: bool = False) -> Floats:
    """Eigen-CAM of the features times their gradients, so that each class has a map.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    gradients : (N, T, C, *S) ndarray
        Spatial axes may be of length one.
    classes : (N, T) integer ndarray, optional
        Not used: the gradients know.
    centred : bool
        Take the mean over positions off each channel first, as pytorch-grad-cam does.

    Returns
    -------
    (N, T, *S) ndarray
        As of :func:`eigen_cam`, with ``g_k A_k`` for ``A_k``: its inner product with the HiResCAM map is not negative.

    Raises
    ------
    InputError
        If the gradients do not fit the features.

    Notes
    -----
    There is no paper: the method comes from pytorch-grad-cam, after Eigen-CAM (arXiv:2008.00299).
    """
    given, flat = fitting(gradients, features), _double(features)
    maps = np.empty((*given.shape[:2], flat.shape[2]))
    for n, t in np.ndindex(*given.shape[:2]):
        maps[n, t] = _first(given[n, t].reshape(flat.shape[1], -1) * flat[n], centred)
    return _like(features, maps)


def kpca_cam(
    features: Floats,
    classes: Classes = None,
    *,
    kernel: str = "sigmoid",
    gamma: float | None = None,
    coef0: float = 1.0,
) -> Floats:
    """KPCA-CAM: the first component of a kernel PCA of the positions.

    Each channel's mean over positions is taken off, the kernel of all pairs of positions is centred, and the map is its
    first eigenvector times the root of its eigenvalue.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    classes : (N, T) integer ndarray, optional
        Only its shape counts: the same map is given for every class.
    kernel : {"sigmoid", "rbf", "linear"}
        ``tanh(gamma x.y + coef0)``, ``exp(-gamma |x - y|^2)`` or ``x.y``, which is the centred Eigen-CAM.
    gamma : float, optional
        ``1 / C`` where absent.
    coef0 : float
        Of the sigmoid.

    Returns
    -------
    (N, T, *S) ndarray
        Computed in float64, image by image, with a matrix of positions by positions: 49 of them take a millisecond,
        784 a tenth of a second, 3136 many seconds and 300 MB. The inner product with ``sum_k A_k`` is not negative.
        Zeros where all positions are alike, NaN where a feature is not finite.

    Raises
    ------
    InputError
        For an unknown kernel, or more than ``MOST_POSITIONS`` positions.

    References
    ----------
    S. Karmani et al., "KPCA-CAM: visual explainability of deep computer vision models using kernel PCA",
    arXiv:2410.00267
    """
    if kernel not in _KERNELS:
        raise InputError(f"kernel {kernel!r} of kpcacam is not known. {suggest(kernel, _KERNELS)}")
    positions = math.prod(features.shape[2:])
    if positions > MOST_POSITIONS:
        raise InputError(
            f"kpcacam compares all pairs of positions, and the layer has {positions} ({times(features.shape[2:])}); "
            f"choose a deeper layer, with at most {MOST_POSITIONS}"
        )
    scale = 1 / features.shape[1] if gamma is None else gamma
    maps = np.stack([_first_of_kernel(image, kernel, scale, coef0) for image in _double(features)])
    return for_every_class(_like(features, maps), classes)


def _sigmoid(dots: Doubles, gamma: float, coef0: float) -> Doubles:
    return np.tanh(gamma * dots + coef0)


def _rbf(dots: Doubles, gamma: float, coef0: float) -> Doubles:
    squares = np.diagonal(dots)
    return np.exp(-gamma * np.maximum(squares[:, None] + squares - 2 * dots, 0))


def _linear(dots: Doubles, gamma: float, coef0: float) -> Doubles:
    return dots


_KERNELS: Mapping[str, Callable[[Doubles, float, float], Doubles]] = MappingProxyType(
    {"sigmoid": _sigmoid, "rbf": _rbf, "linear": _linear}
)


def _double(features: Floats) -> Doubles:
    """(N, C, *S) to (N, C, P) in float64."""
    return features.reshape(*features.shape[:2], -1).astype(np.float64, copy=False)


def _like(features: Floats, maps: Doubles) -> Floats:
    """(..., P) maps in the shape and precision of the features."""
    return maps.reshape(*maps.shape[:-1], *features.shape[2:]).astype(floating(features[:0]).dtype)


def _first(values: Doubles, centred: bool) -> Doubles:
    """``X v_1`` of the (C, P) matrix ``X^T``."""
    if not np.isfinite(values).all():
        return np.full(values.shape[1], np.nan)
    _, exponent = np.frexp(np.abs(values).max())
    scaled = np.ldexp(values, -exponent)  # so that no square over- or underflows
    matrix = scaled - scaled.mean(axis=1, keepdims=True) if centred else scaled
    return np.ldexp(_towards(_projection(matrix), scaled.sum(axis=0)), exponent)


def _projection(matrix: Doubles) -> Doubles:
    """From the smaller of the two Gram matrices; zeros where nothing but rounding is left of values about one."""
    channels, positions = matrix.shape
    few = positions <= channels
    square, vector = _largest(product(matrix.T, matrix) if few else product(matrix, matrix.T))
    singular = math.sqrt(max(square, 0.0))
    if singular <= max(channels, positions) * np.finfo(np.float64).eps:
        return np.zeros(positions)
    return singular * vector if few else vector @ matrix


def _largest(symmetric: Doubles) -> tuple[float, Doubles]:
    """The largest eigenvalue and its vector."""
    from scipy.linalg import eigh  # slow to import; NumPy's, which has no choice but all of them, is slower to run

    last = len(symmetric) - 1
    values, vectors = eigh(symmetric, subset_by_index=[last, last], overwrite_a=True, check_finite=False)
    return float(values[0]), vectors[:, 0]


def _first_of_kernel(values: Doubles, kernel: str, gamma: float, coef0: float) -> Doubles:
    positions = values.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = values - values.mean(axis=1, keepdims=True)
        pairs = _KERNELS[kernel](product(matrix.T, matrix), gamma, coef0)
    if not np.isfinite(pairs).all():
        return np.full(positions, np.nan)
    means = pairs.mean(axis=0)
    value, vector = _largest(pairs - means - means[:, None] + means.mean())
    if value <= positions * np.finfo(np.float64).eps * np.abs(pairs).max():
        return np.zeros(positions)
    return _towards(math.sqrt(value) * vector, values.sum(axis=0))


def _towards(line: Doubles, sums: Doubles) -> Doubles:
    return -line if line @ sums < 0 else line


register(
    Method(
        name="eigencam",
        formula=eigen_cam,
        needs=frozenset({"features"}),
        rectifies=False,
        paper="arXiv:2008.00299",
        summary="first principal component of the features, for every class alike",
        options=MappingProxyType({"centred": False}),
    )
)
register(
    Method(
        name="eigengradcam",
        formula=eigen_grad_cam,
        needs=frozenset({"features", "gradients"}),
        rectifies=True,
        paper="arXiv:2008.00299",
        summary="first principal component of features times gradients",
        options=MappingProxyType({"centred": False}),
    )
)
register(
    Method(
        name="kpcacam",
        formula=kpca_cam,
        needs=frozenset({"features"}),
        rectifies=False,
        paper="arXiv:2410.00267",
        summary="first kernel principal component of the features",
        options=MappingProxyType({"kernel": "sigmoid", "gamma": None, "coef0": 1.0}),
    )
)
