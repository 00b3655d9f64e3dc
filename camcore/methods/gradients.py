"""Methods that weigh the features by gradients of the target.

Gradients come as (N, T, C, *S) arrays, or with spatial axes of length one where they are the same at every position,
as they are behind a global average pooling: then each of these sums is one matrix product. Raw maps are signed; NaN in
the features or gradients of an image stays in that image and class and nowhere raises.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.methods.table import Method, register
from camcore.methods.weights import combine, floating

__all__ = [
    "fitting",
    "grad_cam",
    "grad_cam_elementwise",
    "hires_cam",
    "layer_cam",
    "mean",
    "quotient",
    "relu",
    "shapley_cam",
    "xgrad_cam",
]

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]] | None


def grad_cam(features: Floats, gradients: Floats, classes: Classes = None) -> Floats:
    """Grad-CAM before its ReLU: each channel weighted by the mean of its gradient.

    ``w_k = mean_u g_k(u)``, ``M(u) = sum_k w_k A_k(u)``.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        With 1, 2 or 3 spatial axes.
    gradients : (N, T, C, *S) ndarray
        Of the target of each class; spatial axes may be of length one.
    classes : (N, T) integer ndarray, optional
        Not used: the gradients know.

    Returns
    -------
    (N, T, *S) ndarray
        NaN in one channel's gradient, or at one position of the features, is NaN in what is summed from it.

    Raises
    ------
    InputError
        If the gradients do not fit the features.

    References
    ----------
    R. R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    ICCV 2017, arXiv:1610.02391

    Examples
    --------
    >>> A = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> g = np.array([[[[1.0, 3.0], [-1.0, 0.0]]]])
    >>> grad_cam(A, g)
    array([[[0.5, 2. ]]])
    """
    return combine(mean(fitting(gradients, features)), features)


def hires_cam(features: Floats, gradients: Floats, classes: Classes = None) -> Floats:
    """HiResCAM: the features times their gradients, position by position; no ReLU, as in the paper.

    ``M(u) = sum_k g_k(u) A_k(u)``. Parameters, result and errors as in :func:`grad_cam`.

    References
    ----------
    R. L. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks", arXiv:2011.08891
    """
    return combine(fitting(gradients, features), features)


def layer_cam(features: Floats, gradients: Floats, classes: Classes = None) -> Floats:
    """LayerCAM before its ReLU: the features times their positive gradients.

    ``M(u) = sum_k ReLU(g_k(u)) A_k(u)``. Parameters, result and errors as in :func:`grad_cam`.

    References
    ----------
    P.-T. Jiang et al., "LayerCAM: exploring hierarchical class activation maps for localization", IEEE TIP 2021,
    doi:10.1109/TIP.2021.3089943
    """
    return combine(relu(fitting(gradients, features)), features)


def grad_cam_elementwise(features: Floats, gradients: Floats, classes: Classes = None) -> Floats:
    """Grad-CAM with its ReLU inside the sum: ``M(u) = sum_k ReLU(g_k(u) A_k(u))``.

    Parameters, result and errors as in :func:`grad_cam`. A product is positive where both factors are, or neither.

    References
    ----------
    V. Pillai and H. Pirsiavash, "Explainable models with consistent interpretations", AAAI 2021,
    doi:10.1609/aaai.v35i3.16344
    """
    gradients = fitting(gradients, features)
    both = combine(relu(gradients), relu(features))
    return both + combine(relu(-gradients), relu(-features))


def xgrad_cam(features: Floats, gradients: Floats, classes: Classes = None) -> Floats:
    """XGrad-CAM before its ReLU: gradients averaged with the features as weights.

    ``w_k = sum_u g_k(u) A_k(u) / sum_u A_k(u)``, ``M(u) = sum_k w_k A_k(u)``.

    Parameters, result and errors as in :func:`grad_cam`. A gradient that is the same everywhere is its own average,
    exactly. Else, where the features of a channel sum to zero, its weight is zero: they all are zero, or the quotient
    does not exist. The paper has features after a ReLU; those of SiLU or GELU may nearly cancel in the sum, and then
    the weight is as large as the formula makes it, or has the opposite sign.

    References
    ----------
    R. Fu et al., "Axiom-based Grad-CAM: towards accurate visualization and explanation of CNNs", BMVC 2020,
    arXiv:2008.02312
    """
    gradients = fitting(gradients, features)
    if math.prod(gradients.shape[3:]) == 1:
        return combine(gradients, features)
    flat = floating(features).reshape(*features.shape[:2], -1)
    pulled = np.einsum("ntcs,ncs->ntc", gradients.reshape(*gradients.shape[:3], -1), flat)
    return combine(quotient(pulled, flat.sum(axis=2)[:, None]), features)


def shapley_cam(features: Floats, gradients: Floats, curvature: Floats, classes: Classes = None) -> Floats:
    """ShapleyCAM before its ReLU: Grad-CAM with the second-order term of the channels' Shapley values.

    ``w_k = mean_u (g - H A / 2)_k(u)``, ``M(u) = sum_k w_k A_k(u)``, where H is the Hessian of the target with respect
    to the features. The paper's target is ``s_c + ln p_c``; for one that is linear in the features H is zero and this
    is Grad-CAM.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    gradients, curvature : (N, T, C, *S) ndarray
        ``g`` and ``H A``; spatial axes of each may be of length one.
    classes : (N, T) integer ndarray, optional
        Not used.

    Returns
    -------
    (N, T, *S) ndarray

    Raises
    ------
    InputError
        If the gradients or the curvature do not fit the features.

    References
    ----------
    H. Cai, "CAMs as Shapley value-based explainers", arXiv:2501.06261
    """
    weights = mean(fitting(gradients, features)) - mean(fitting(curvature, features, "curvature")) / 2
    return combine(weights, features)


def fitting(gradients: Floats, features: Floats, name: str = "gradients") -> Floats:
    """The gradients in at least float32, or an error where they are not of these features."""
    n, channels, *space = features.shape
    shape = gradients.shape
    known = len(shape) == features.ndim + 1 and (shape[0], shape[2]) == (n, channels)
    if not known or list(shape[3:]) not in (space, [1] * len(space)):
        raise InputError(
            f"{name} have shape {shape}; features of shape {features.shape} ask for (N, T, C, *S) = "
            f"({n}, T, {channels}, {', '.join(map(str, space))}), or spatial axes of length one"
        )
    return floating(gradients)


def relu(array: Floats) -> Floats:
    """What is not negative of it; NaN stays."""
    return np.maximum(array, 0)


def mean(array: Floats) -> Floats:
    """Over positions: (N, T, C, *S) to (N, T, C)."""
    return array.mean(axis=tuple(range(3, array.ndim)))


def quotient(part: Floats, whole: Floats) -> Floats:
    """part / whole; zero where whole is zero."""
    shape = np.broadcast_shapes(part.shape, whole.shape)
    zeros = np.zeros(shape, np.result_type(part, whole))
    return np.divide(part, whole, out=zeros, where=whole != 0)


_GRADIENTS = frozenset({"features", "gradients"})


def per_position(class_maps: Floats) -> Floats:
    """The maps of the gradient methods from ``sum_k W_ck A_k`` (N, T, *S): the gradient is ``W_ck / |S|``."""
    return class_maps / class_maps.dtype.type(np.prod(class_maps.shape[2:]))


register(
    Method(
        name="gradcam",
        formula=grad_cam,
        needs=_GRADIENTS,
        rectifies=True,
        paper="arXiv:1610.02391",
        summary="features weighted by the mean gradient of each channel",
        alike="E1",
        from_class_maps=per_position,
    )
)
register(
    Method(
        name="xgradcam",
        formula=xgrad_cam,
        needs=_GRADIENTS,
        rectifies=True,
        paper="arXiv:2008.02312",
        summary="gradients averaged with the features as weights",
        alike="E1",
        from_class_maps=per_position,
    )
)
register(
    Method(
        name="hirescam",
        formula=hires_cam,
        needs=_GRADIENTS,
        rectifies=False,
        paper="arXiv:2011.08891",
        summary="features times their gradients, position by position",
        alike="E1",
        from_class_maps=per_position,
    )
)
register(
    Method(
        name="layercam",
        formula=layer_cam,
        needs=_GRADIENTS,
        rectifies=True,
        paper="doi:10.1109/TIP.2021.3089943",
        summary="features times their positive gradients",
        alike="E2",
    )
)
register(
    Method(
        name="gradcam-elementwise",
        formula=grad_cam_elementwise,
        needs=_GRADIENTS,
        rectifies=True,
        paper="doi:10.1609/aaai.v35i3.16344",
        summary="the positive ones of the products of features and gradients",
        alike="E2",
    )
)
register(
    Method(
        name="finercam",
        formula=grad_cam,
        needs=_GRADIENTS,
        rectifies=True,
        paper="arXiv:2501.11309",
        summary="Grad-CAM of a class minus the classes most like it",
        target="finer",
        alike="E1",
    )
)
register(
    Method(
        name="shapleycam",
        formula=shapley_cam,
        needs=_GRADIENTS | {"curvature"},
        rectifies=True,
        paper="arXiv:2501.06261",
        summary="Grad-CAM with the second-order term of Shapley values",
        target="rest",
        alike="E1",
    )
)
