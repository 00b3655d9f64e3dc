"""Methods that look at the image through its features: each feature map is a mask, and the model says what it is worth.

A mask is a feature map resized to the image and scaled to [0, 1]. It is laid over the image as the model takes it, so
what it hides becomes zero there: with the usual preprocessing the mean colour, not black. Resizing is linear with
half-pixel centres, in one, two or three dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.methods.probes import Probe, Scene
from camcore.methods.table import Method, register
from camcore.methods.weights import combine
from camcore.normalize import normalize
from camcore.resize import resize
from camcore.scores import softmax

__all__ = ["group_cam", "is_cam", "score_cam", "ss_cam"]

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]] | None

# The Gaussian of Group-CAM: 51 pixels wide.
_BLUR_SIGMA, _BLUR_RADIUS = 50.0, 25


def score_cam(features: Floats, responses: Floats, classes: Classes = None) -> Floats:
    """Score-CAM before its ReLU: each channel weighted by the target of the image seen through it.

    ``w = softmax_k(y(X * H_k))``, ``M(u) = sum_k w_k A_k(u)``, with H_k the channel resized to the image and then
    scaled to [0, 1]. The paper subtracts the target of a baseline image before the softmax; being the same for every
    channel it cancels, so it is not run.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    responses : (N, T, C) ndarray
        The target of the image through mask k. A constant channel is a mask of zeros.
    classes : (N, T) integer ndarray, optional
        Not used: the responses know.

    Returns
    -------
    (N, T, *S) ndarray

    References
    ----------
    H. Wang et al., "Score-CAM: score-weighted visual explanations for convolutional neural networks",
    arXiv:1910.01279

    Examples
    --------
    >>> score_cam(np.array([[[1.0, 3.0], [0.0, 2.0]]]), np.array([[[7.0, 7.0]]]))
    array([[[0.5, 2.5]]])
    """
    precision = np.result_type(features.dtype, np.float32)
    return combine(softmax(responses.astype(precision, copy=False)), features)


def ss_cam(
    features: Floats,
    responses: Floats,
    classes: Classes = None,
    *,
    samples: int = 10,
    spread: float = 2.0,
    seed: int = 0,
) -> Floats:
    """SS-CAM before its ReLU: Score-CAM with the mean over noisy masks.

    ``w = softmax_k(mean_i y(X * (H_k + e_ik)))``, ``M(u) = sum_k w_k A_k(u)``. This is the variant of the paper that
    smooths the feature maps, not the input. The noise ``e_ik`` is added to the mask of Score-CAM, that is after
    resizing and scaling, one number a pixel for all colours; the sum is neither clipped nor scaled again.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    responses : (N, T, samples * C) ndarray
        The target of the image through mask k with noise i, k running fastest.
    classes : (N, T) integer ndarray, optional
        Not used: the responses know.
    samples : int
    spread : float
        Standard deviation of the noise, where the mask has a range of 1.
    seed : int
        Input p has the noise of ``numpy.random.default_rng([seed, p])``, for every image the same.

    Returns
    -------
    (N, T, *S) ndarray

    References
    ----------
    H. Wang et al., "SS-CAM: smoothed Score-CAM for sharper visual feature localization", arXiv:2006.14255
    """
    return score_cam(features, _mean_over_samples(responses, samples))


def is_cam(features: Floats, responses: Floats, classes: Classes = None, *, samples: int = 10) -> Floats:
    """IS-CAM before its ReLU: Score-CAM with the mean over masks that grow from nothing.

    ``w = softmax_k(1/n sum_i y(i/n X * H_k))`` for i = 1..n, ``M(u) = sum_k w_k A_k(u)``: the integral of the target
    from the empty image to the masked one. torch-cam adds the factors up instead, to (n + 1) / 2, so that most of its
    images are brighter than the given one.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    responses : (N, T, samples * C) ndarray
        The target of the image through ``i / samples`` times mask k, k running fastest, then i from 1.
    classes : (N, T) integer ndarray, optional
        Not used: the responses know.
    samples : int
        One is Score-CAM.

    Returns
    -------
    (N, T, *S) ndarray

    References
    ----------
    R. Naidu et al., "IS-CAM: integrated Score-CAM for axiomatic-based explanations", arXiv:2010.03023
    """
    return score_cam(features, _mean_over_samples(responses, samples))


def _mean_over_samples(responses: Floats, samples: int) -> Floats:
    n, classes, total = responses.shape
    mean: Floats = responses.reshape(n, classes, samples, total // samples).mean(axis=2)
    return mean


def group_cam(
    features: Floats,
    gradients: Floats,
    responses: Floats,
    classes: Classes = None,
    *,
    groups: int = 32,
    percentile: float = 70.0,
) -> Floats:
    """Group-CAM: groups of channels weighted by what each brings back of a blurred image.

    The channels, weighted by the means of their gradients, are split into consecutive groups. The map of a group is
    ``G(u) = ReLU(sum_k w_k A_k(u))`` with its low values set to zero; its mask, made as in Score-CAM, mixes the image
    with a blurred copy: ``X * H + B * (1 - H)``. Then ``M(u) = sum_g ReLU(y_g - y_B) G_g(u)``. It is nowhere negative.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    gradients : (N, T, C, *S) ndarray
        Of the target of each class; spatial axes may be of length one.
    responses : (N, T, 1 + G) ndarray
        The target of the blurred image, then of each mixed one. The paper takes the probability of the class here.
    classes : (N, T) integer ndarray, optional
        Not used: gradients and responses know.
    groups : int
        At most one a channel. Where the channels do not divide evenly, sizes differ by one.
    percentile : float
        Values of a group's map below this percentile of it become zero, the denoising of the paper; 0 leaves all, as
        the authors' later code does.

    Returns
    -------
    (N, T, *S) ndarray

    Notes
    -----
    As in the authors' later code each weight has its ReLU, and a group counts with its map as it is: a group of weak
    evidence counts less. In the first published code the ReLU is on the sum, of maps that are scaled to [0, 1].
    Gradients and responses have one target here, while the authors take the gradients of the score.
    The blur is a Gaussian of standard deviation 50 cut off at 25 pixels, borders mirrored, for images of every size.

    References
    ----------
    Q. Zhang et al., "Group-CAM: group score-weighted visual explanations for deep convolutional networks",
    arXiv:2103.13859

    Examples
    --------
    >>> A, g = np.array([[[1.0, 3.0], [0.0, 2.0]]]), np.array([[[[2.0], [1.0]]]])
    >>> group_cam(A, g, np.array([[[0.5, 1.0, 0.75]]]), percentile=0)
    array([[[1. , 3.5]]])
    """
    maps = _group_maps(features, gradients, groups, percentile)
    gains = np.maximum(responses[:, :, 1:] - responses[:, :, :1], 0).astype(maps.dtype, copy=False)
    summed: Floats = np.einsum("ntg,ntgs->nts", gains, maps.reshape(*maps.shape[:3], -1))
    return summed.reshape(*maps.shape[:2], *features.shape[2:])


def _group_maps(features: Floats, gradients: Floats, groups: int, percentile: float) -> Floats:
    """(N, T, G, *S): weighted, summed, without what is negative or low."""
    n, channels, *space = features.shape
    precision = np.result_type(features.dtype, np.float32)
    weights = gradients.reshape(*gradients.shape[:3], -1).mean(axis=3, dtype=precision)
    parts = weights[..., None] * features.reshape(n, 1, channels, -1)
    count = min(groups, channels)
    maps = np.maximum(np.add.reduceat(parts, np.arange(count) * channels // count, axis=2), 0)
    low = np.percentile(maps, percentile, axis=3, keepdims=True)
    kept: Floats = np.where(maps < low, 0, maps)
    return kept.reshape(*maps.shape[:3], *space)


def _masks(maps: Floats, image: Floats) -> Floats:
    """(m, *s) maps to (m, *S0) masks in [0, 1]; a constant map gives zeros.

    Scaled before resizing too, so that tiny and huge values are safe, and the largest of a map that is not constant
    is known to be one: then a range of a few roundings, left by resizing to a coarser grid, counts as constant.
    """
    size = image.shape[1:]
    if maps.ndim != image.ndim:
        raise InputError(
            f"the features have {maps.ndim - 1} spatial axes, the images {len(size)}: no mask can be made of them. "
            "Give layer= one with features laid out as the images are"
        )
    resized = resize(normalize(maps, spatial=len(size)), size).reshape(len(maps), -1)
    resized -= resized.min(axis=1, keepdims=True)
    extent = resized.max(axis=1, keepdims=True)
    resized /= np.where(extent > 16 * np.finfo(resized.dtype).eps, extent, np.inf)
    return resized.reshape(-1, *size)


def _seen_through(image: Floats, masks: Floats) -> Floats:
    """(m, C0, *S0): the image times each mask, in the image's own precision."""
    shown = np.empty((len(masks), *image.shape), image.dtype)
    return np.multiply(masks[:, None], image, out=shown, casting="same_kind")


def _channels(scene: Scene, **_: Any) -> int:
    return len(scene.features)


def _masked(scene: Scene, index: Sequence[int], **_: Any) -> Floats:
    return _seen_through(scene.image, _masks(_of_channels(scene, index), scene.image))


def _of_channels(scene: Scene, index: Sequence[int]) -> Floats:
    """The feature maps of inputs that run through the channels, again and again."""
    return scene.features[np.asarray(index, np.intp) % len(scene.features)]


def _samples_of_channels(scene: Scene, *, samples: int, **_: Any) -> int:
    return _at_least_one("samples", samples) * len(scene.features)


def _noisily_masked(scene: Scene, index: Sequence[int], *, spread: float, seed: int, **_: Any) -> Floats:
    masks = _masks(_of_channels(scene, index), scene.image)
    for mask, p in zip(masks, index, strict=True):
        mask += spread * np.random.default_rng([seed, p]).standard_normal(mask.shape, mask.dtype)
    return _seen_through(scene.image, masks)


def _partly_masked(scene: Scene, index: Sequence[int], *, samples: int) -> Floats:
    masks = _masks(_of_channels(scene, index), scene.image)
    for mask, p in zip(masks, index, strict=True):
        mask *= (1 + p // len(scene.features)) / samples
    return _seen_through(scene.image, masks)


def _blurred_and_groups(scene: Scene, *, groups: int, percentile: float) -> int:
    if not 0 <= percentile <= 100:
        raise InputError(f"percentile is {percentile}; expected 0 to 100")
    return 1 + min(_at_least_one("groups", groups), len(scene.features))


def _mixed(scene: Scene, index: Sequence[int], *, groups: int, percentile: float) -> Floats:
    """Input 0 is the blurred image, input g the image where group g is and the blurred one where it is not."""
    assert scene.gradients is not None  # the method needs them
    maps = _group_maps(scene.features[None], scene.gradients[None, None], groups, percentile)[0, 0]
    nothing = np.zeros_like(maps[:1])
    blurred = _blur(scene.image)
    mixed = _masks(np.concatenate([nothing, maps])[np.asarray(index, np.intp)], scene.image)[:, None]
    return (blurred + mixed * (scene.image - blurred)).astype(scene.image.dtype, copy=False)


def _blur(image: Floats) -> Floats:
    """Along the spatial axes; computed in at least float32."""
    from scipy.ndimage import gaussian_filter  # slow to import

    axes = tuple(range(1, image.ndim))
    wide = image.astype(np.result_type(image.dtype, np.float32), copy=False)
    blurred: Floats = gaussian_filter(wide, _BLUR_SIGMA, axes=axes, radius=_BLUR_RADIUS, mode="mirror")
    return blurred


def _at_least_one(name: str, value: int) -> int:
    if value < 1 or value != int(value):
        raise InputError(f"{name} is {value}; expected a whole number, at least 1")
    return int(value)


register(
    Method(
        name="scorecam",
        formula=score_cam,
        needs=frozenset({"features", "model"}),
        rectifies=True,
        paper="arXiv:1910.01279",
        summary="features weighted by the target of the image seen through each",
        probe=Probe(where="model", count=_channels, inputs=_masked, each="a channel"),
    )
)
register(
    Method(
        name="sscam",
        formula=ss_cam,
        needs=frozenset({"features", "model"}),
        rectifies=True,
        paper="arXiv:2006.14255",
        summary="Score-CAM with the mean over noisy masks",
        options={"samples": 10, "spread": 2.0, "seed": 0},
        probe=Probe(where="model", count=_samples_of_channels, inputs=_noisily_masked, each="a channel and sample"),
    )
)
register(
    Method(
        name="iscam",
        formula=is_cam,
        needs=frozenset({"features", "model"}),
        rectifies=True,
        paper="arXiv:2010.03023",
        summary="Score-CAM with the mean over masks that grow from nothing",
        options={"samples": 10},
        probe=Probe(where="model", count=_samples_of_channels, inputs=_partly_masked, each="a channel and step"),
    )
)
register(
    Method(
        name="groupcam",
        formula=group_cam,
        needs=frozenset({"features", "gradients", "model"}),
        rectifies=True,
        paper="arXiv:2103.13859",
        summary="groups of channels weighted by what each brings back of a blurred image",
        options={"groups": 32, "percentile": 70.0},
        target="probability",
        gradients_of="logit",
        probe=Probe(where="model", count=_blurred_and_groups, inputs=_mixed, per_class=True, each="a group"),
    )
)
