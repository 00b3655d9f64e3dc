"""Methods that are neither CAM nor made of gradients, as a few nodes of the features and, where they ask it, the head.

What Ablation-CAM, LIFT-CAM and Recipro-CAM would learn by running the head is known beforehand where it is linear over
pooled features, or linear behind a layer normalisation of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore.head import Head, LinearHead, NormHead
from camcore.methods import METHODS, Method
from camcore.methods.ablation import ablation_cam, lift_cam, recipro_cam
from camcore.methods.activations import activation_map, fem
from camcore.methods.plusplus import smooth_grad_cam_plus_plus
from camcore.methods.recam import recam
from camcore.targets import Target, target
from camcore_onnx.embedding.closed import class_rows, gradient_maps
from camcore_onnx.embedding.recipro import kept_sums
from camcore_onnx.embedding.site import Site
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["can_write", "obstacle_to", "write_maps"]

_DOUBLE, _FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT
_WHY_NOT: Mapping[str, str] = MappingProxyType(
    {
        "eigencam": "it needs a singular value decomposition",
        "eigengradcam": "it needs a singular value decomposition",
        "kpcacam": "it needs the eigenvectors of a kernel matrix",
        "random": "it is made of the bytes of the image by a generator of random numbers",
        "scorecam": "it runs the whole network once for each channel",
        "sscam": "it runs the whole network several times for each channel",
        "iscam": "it runs the whole network several times for each channel",
        "groupcam": "it runs the whole network once for each group of channels",
    }
)


def can_write(method: Method) -> bool:
    """Whether :func:`write_maps` knows a method's formula."""
    return method.formula in _FORMS


def obstacle_to(method: Method, head: Head | None, aim: Target) -> str:
    """Why a method's map is no few nodes behind this head; empty where it is.

    Parameters
    ----------
    method : Method
    head : LinearHead, NormHead or None
        What reads the layer.
    aim : Target
    """
    if method.formula not in _FORMS:
        return _WHY_NOT.get(method.name, "its formula is not known as nodes of a graph")
    _, heads = _FORMS[method.formula]
    if heads and not isinstance(head, heads):
        return "it has no closed form at this layer"
    if heads and not aim.plain:
        return f"the target {aim.name!r} is not made there, only 'logit'"
    return ""


def write_maps(
    site: Site, method: Method, head: Head | None, aim: Target, *, second: NDArray[np.floating[Any]] | None = None
) -> Tensor:
    """The raw map (N, T, P) of a method.

    Parameters
    ----------
    site : Site
        Its graph is changed.
    method : Method
        With its options.
    head : LinearHead, NormHead or None
        What reads the features of the site.
    aim : Target
    second : (K, C) ndarray, optional
        The weight of a second classifier, for methods that need it.

    Raises
    ------
    MethodNotPossible
        For what :func:`obstacle_to` says.
    """
    why = obstacle_to(method, head, aim)
    if why:
        raise MethodNotPossible(f"the map of {method.name} cannot be made in the graph: {why}")
    write, heads = _FORMS[method.formula]
    if "second_weight" in method.needs and isinstance(head, LinearHead) and second is not None:
        head = LinearHead(second * head.weight)
    return write(site, head, **method.options) if heads else write(site, **method.options)


def _ablation(site: Site, head: Head, *, relative: bool) -> Tensor:
    """``sum_k d_k A_k``, d_k being what the score loses without channel k."""
    drops = _lost(site, head) if isinstance(head, NormHead) else _contributions(site, head)
    return (_divided(drops, _scores(site)) if relative else drops).matmul(site.features)


def _contributions(site: Site, head: LinearHead) -> Tensor:
    """``W_tk F_k``, (N, T, C)."""
    return class_rows(site, head) * _means(site)


def _lost(site: Site, head: NormHead) -> Tensor:
    """(N, T, C) of a head with a layer normalisation: without a channel the mean and the variance of the others move.

    With ``x = F - mean(F)`` and C channels, without channel k the sum of the squares of x grows by
    ``F_k^2 (1 - 1/C) - 2 F_k x_k``, and ``sum_j w_j x_j`` by ``-F_k (w_k - mean(w))``.
    """
    count, means, rows = head.channels, _means(site), class_rows(site, head.linear)
    apart = means - means.mean(2)
    variance = (apart * apart).mean(2)
    moved = (variance + (means * means * (1 - 1 / count) - means * apart * 2.0) / count).unary("Relu")
    whole = (rows * apart).sum(2)
    without = whole - means * (rows - rows.mean(2))
    return whole / (variance + head.epsilon).unary("Sqrt") - without / (moved + head.epsilon).unary("Sqrt")


def _lift(site: Site, head: LinearHead) -> Tensor:
    return _contributions(site, head).matmul(site.features)


def _recipro(site: Site, head: Head, *, kernel: str) -> Tensor:
    """``b_t + kappa(u) M_t(u) / P``, or what the layer normalisation makes of ``kappa(u) A(u) / P``."""
    shown = site.features / site.features.count(2)
    if kernel != "pixel":
        shown = shown * kept_sums(site, kernel)
    if isinstance(head, NormHead):
        apart = shown - shown.mean(1)
        shown, head = apart / ((apart * apart).mean(1) + head.epsilon).unary("Sqrt"), head.linear
    return class_rows(site, head).matmul(shown) + _offsets(site, head)


def _offsets(site: Site, head: LinearHead) -> Tensor:
    """The bias of each class, (N or 1, T, 1)."""
    bias = site.pen.constant(head.bias.reshape(-1), _FLOAT)
    return (bias.unsqueeze(0) if site.classes is None else bias.gather(site.classes, 0)).unsqueeze(2)


def _recam(site: Site, head: LinearHead, *, variant: str, normalization: str) -> Tensor:
    """The maps of both weights together, or the class map times itself scaled to [0, 1]."""
    maps = class_rows(site, head).matmul(site.features)
    if variant == "class":
        return maps
    if normalization == "sigmoid":
        return maps * maps.unary("Sigmoid")
    positive = maps - maps.reduce("ReduceMin", 2) if normalization == "minmax" else maps.unary("Relu")
    largest = positive.reduce("ReduceMax", 2)
    mask = positive / (largest > 0.0).where(largest, 1.0)
    return maps * ((mask * 2.0).unary("Tanh") if normalization == "tanh" else mask)


def _activations(site: Site) -> Tensor:
    return _for_every_class(site, site.features.mean(1))


def _fem(site: Site, *, z: float) -> Tensor:
    """In float64, like the library: whether a channel passes its threshold may hang on the last bit."""
    low = site.features.reduce("ReduceMin", 2)
    above = (site.features - low).cast(_DOUBLE)
    mean = above.mean(2)
    apart = above - mean
    unusual = (above >= mean + (apart * apart).mean(2).unary("Sqrt") * z).cast(_FLOAT)
    weights = (low.cast(_DOUBLE) + mean).cast(_FLOAT)
    return _for_every_class(site, weights.transpose(0, 2, 1).matmul(unusual))


def _smooth_plus_plus(site: Site, head: LinearHead, **_: Any) -> Tensor:
    """The gradient of a score is the same on noisy images, so that it is Grad-CAM++."""
    return gradient_maps(site, head, METHODS["gradcam++"], target("logit"), alone=False)


def _means(site: Site) -> Tensor:
    """(N, 1, C): the features that are pooled."""
    return site.features.mean(2, keep=False).unsqueeze(1)


def _scores(site: Site) -> Tensor:
    """(N, T, 1) scores of the classes explained."""
    if site.classes is None:
        return site.scores.unsqueeze(2)
    every = np.arange(site.scores.shape[1] or 0, dtype=np.int64)[None, None]
    chosen = site.classes.unsqueeze(2).equals(every).cast(_FLOAT)
    return (chosen * site.scores.unsqueeze(1)).sum(2)


def _divided(drops: Tensor, whole: Tensor) -> Tensor:
    """Unless ``whole`` is zero, or so small that the quotient would overflow."""
    least = drops.unary("Abs").reduce("ReduceMax", 2) * float(np.finfo(np.float32).tiny)
    divides = whole.unary("Abs") > least
    return drops / divides.where(whole, 1.0)


def _for_every_class(site: Site, maps: Tensor) -> Tensor:
    """(N, 1, P) maps that know no class, once for each of them."""
    classes, pen = site.classes, site.pen
    count = site.scores.shape[1] or 1 if classes is None else classes.shape[1]
    if count == 1:
        return maps
    times = pen.lengths([1, classes.length(1) if count is None and classes is not None else count, 1])
    return pen.op("Expand", maps, times, shape=(maps.shape[0], count, maps.shape[2]))


# How each formula is written, and for which heads; none where it asks for no head.
_FORMS: Mapping[Any, tuple[Callable[..., Tensor], tuple[type, ...]]] = MappingProxyType(
    {
        ablation_cam: (_ablation, (LinearHead, NormHead)),
        lift_cam: (_lift, (LinearHead,)),
        recipro_cam: (_recipro, (LinearHead, NormHead)),
        recam: (_recam, (LinearHead,)),
        smooth_grad_cam_plus_plus: (_smooth_plus_plus, (LinearHead,)),
        activation_map: (_activations, ()),
        fem: (_fem, ()),
    }
)
