"""ReCAM: class maps re-weighted by a second classifier, or masked by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods.table import Method, register
from camcore.methods.weights import cam, floating
from camcore.normalize import NORMALIZATIONS, normalize

__all__ = ["VARIANTS", "check_choices", "recam"]

Floats = NDArray[np.floating[Any]]
VARIANTS = ("class", "self")


def recam(
    features: Floats,
    head: LinearHead,
    second_weight: Floats | None = None,
    classes: NDArray[np.integer[Any]] | None = None,
    *,
    variant: str = "class",
    normalization: str = "relu-max",
) -> Floats:
    """ReCAM before its ReLU: the class map with the weights of two classifiers, or with itself as a mask.

    ``variant="class"``, the paper's: ``M_c(u) = sum_k W'_ck W_ck A_k(u)``, where the second classifier ``W'`` has been
    trained with softmax cross-entropy on features that the class maps of the first one mask.
    ``variant="self"`` needs none: with ``m_c(u) = sum_k W_ck A_k(u)`` it is ``M_c(u) = m_c(u) n(m_c)(u)``, so that
    ``mean(M_c) + b_c`` is the score of class c when the network's own map, scaled to [0, 1] by ``n``, masks the
    features before the same classifier.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    head : LinearHead
        The first classifier, C channels to K classes.
    second_weight : (K, C) ndarray, optional
        Of the second classifier; only ``"class"`` takes it.
    classes : (N, T) integer ndarray, optional
        The classes of each image; all K where absent.
    variant : {"class", "self"}
    normalization : {"relu-max", "minmax", "sigmoid", "tanh"}
        How ``"self"`` scales the mask, see :func:`camcore.normalize`. In ``"class"`` the mask belongs to the training,
        see :class:`camcore_torch.ReCam`, and this changes nothing.

    Returns
    -------
    (N, T, *S) ndarray
        Raw and signed. ``"self"`` with ``"relu-max"`` is never negative.

    Raises
    ------
    InputError
        For a second weight that is absent, not finite or of another shape than the first one, or an unknown option.

    Notes
    -----
    The official code multiplies both weights in the same way (``forward2``); it then adds the maps of several scales
    and of the mirrored image, which here is ``smoothing=``, and divides by the maximum plus 1e-5, which here is the
    heatmap. On a head without weights, where feature map c is the map of class c, the second classifier scales each
    map by one number. ``"self"`` is no method of the paper.

    References
    ----------
    Z. Chen et al., "Class re-activation maps for weakly-supervised semantic segmentation", CVPR 2022,
    arXiv:2203.00962; code: zhaozhengChen/ReCAM

    Examples
    --------
    >>> A = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> recam(A, LinearHead([[1.0, 10.0]]), np.array([[2.0, 0.5]]))
    array([[[17., 24.]]])
    >>> recam(A, LinearHead([[0.0, 1.0]]), variant="self")
    array([[[2.25, 4.  ]]])
    """
    check_choices("recam", variant, normalization)
    if variant == "self":
        return _masked_by_itself(cam(features, head, classes), normalization)
    second = _fitting(second_weight, head)
    if not head.is_identity:
        return cam(features, LinearHead(second * head.weight), classes)
    every = np.arange(head.classes)[None] if classes is None else classes
    factors = np.diagonal(second)[every]
    return cam(features, head, classes) * factors.reshape(*factors.shape, *(1 for _ in features.shape[2:]))


def _masked_by_itself(class_maps: Floats, normalization: str) -> Floats:
    """``m n(m)``, zero also where an infinite map meets a mask of zero."""
    maps = floating(class_maps)
    masks = normalize(maps, normalization, spatial=maps.ndim - 2)
    with np.errstate(invalid="ignore"):
        return np.where((masks == 0) & ~np.isnan(maps), 0, maps * masks)


def _fitting(second: Floats | None, head: LinearHead) -> Floats:
    """The second weight, as it must be."""
    if second is None:
        raise InputError(f"recam needs the weight of a second classifier, (K, C). {_CURE}")
    if second.shape != (head.classes, head.channels):
        raise InputError(
            f"the weight of the second classifier has shape {second.shape}; expected that of the first one, "
            f"({head.classes}, {head.channels})"
        )
    if second.dtype.kind != "f" or not np.isfinite(second).all():
        raise InputError(
            f"the weight of the second classifier ({second.dtype}) is not all finite floats; train it anew"
        )
    return floating(second)


def check_choices(owner: str, variant: str, normalization: str) -> None:
    """Raise for a variant or a normalisation that is not known; ``owner`` is whose options they are."""
    for name, value, known in (("variant", variant, VARIANTS), ("normalization", normalization, NORMALIZATIONS)):
        if value not in known:
            *some, last = (repr(n) for n in known)
            raise InputError(f"option {name} of {owner} is {value!r}; expected {', '.join(some)} or {last}")


def _by_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The class maps alone make the map of ``"self"``."""
    check_choices("recam", **options)
    if options["variant"] == "class":
        return {"needs": _NEEDS | {"second_weight"}, "from_class_maps": None}
    return {"needs": _NEEDS, "from_class_maps": partial(_masked_by_itself, normalization=options["normalization"])}


_NEEDS = frozenset({"features", "head"})
_CURE = (
    "Train one with the network in it (camcore train --recam, or camcore_torch.ReCam in a loop of your own), or take "
    "option variant=self, which masks the class maps by themselves."
)

register(
    Method(
        name="recam",
        formula=recam,
        needs=_NEEDS | {"second_weight"},
        rectifies=True,
        paper="arXiv:2203.00962",
        summary="class maps re-weighted by a second classifier",
        options=MappingProxyType({"variant": "class", "normalization": "relu-max"}),
        by_options=_by_options,
        cure=_CURE,
    )
)
