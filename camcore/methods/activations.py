"""Methods that look at the features alone, and the one that looks at nothing."""

from __future__ import annotations

import zlib
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.methods.table import Method, register
from camcore.methods.weights import combine, floating

__all__ = ["activation_map", "fem", "for_every_class", "random_map"]

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.integer[Any]] | None


def for_every_class(maps: Floats, classes: Classes) -> Floats:
    """(N, *S) maps that know no class to (N, T, *S): the same for each of them, or once without classes."""
    return np.repeat(maps[:, None], 1 if classes is None else classes.shape[1], axis=1)


def activation_map(features: Floats, classes: Classes = None) -> Floats:
    """Mean of the features over channels: where the network responds, for no class in particular.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    classes : (N, T) integer ndarray, optional
        Only its shape counts: the same map is given for every class.

    Returns
    -------
    (N, T, *S) ndarray
        T is 1 without ``classes``. NaN stays at its position.

    References
    ----------
    A. Karjauv and S. Albayrak, "LaFAM: unsupervised feature attribution with label-free activation maps",
    arXiv:2407.06059

    Examples
    --------
    >>> activation_map(np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    array([[[2., 3.]]])
    """
    return for_every_class(floating(features).mean(axis=1), classes)


def fem(features: Floats, classes: Classes = None, *, z: float = 2.0) -> Floats:
    """FEM: where a channel is unusually strong for itself, it counts as much as its mean.

    ``M(u) = sum_k mu_k [A_k(u) >= mu_k + z sigma_k]`` with the mean and standard deviation of each channel of each
    image over positions.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    classes : (N, T) integer ndarray, optional
        Only its shape counts: the same map is given for every class.
    z : float
        How many standard deviations above its mean a channel is unusual.

    Returns
    -------
    (N, T, *S) ndarray
        Not negative for features that are not. NaN anywhere in an image makes its map NaN.

    Notes
    -----
    A channel that is the same everywhere passes its own threshold everywhere, and adds its mean as a constant to the
    map: that is the formula. pytorch-grad-cam computes something else under this name: it weighs the features, not the
    mask, by the share of positions above the threshold, not by the mean. Xplique computes the formula above.

    References
    ----------
    K. A. A. Fuad et al., "Features understanding in 3D CNNs for actions recognition in video", IPTA 2020,
    doi:10.1109/IPTA50016.2020.9286629

    Examples
    --------
    >>> fem(np.array([[[0.0, 0.0, 0.0, 0.0, 0.0, 6.0]]]))
    array([[[0., 0., 0., 0., 0., 1.]]])
    """
    flat = floating(features).reshape(*features.shape[:2], -1)
    low = flat.min(axis=2, keepdims=True)
    above = flat - low  # constants become exact zeros, whatever the rounding of a mean
    mean = above.mean(axis=2, keepdims=True, dtype=np.float64)
    unusual = above >= mean + z * above.std(axis=2, keepdims=True, dtype=np.float64)
    weights = (low + mean).astype(flat.dtype)
    maps = combine(weights[:, None, :, 0], unusual.astype(flat.dtype))
    return for_every_class(maps.reshape(len(features), *features.shape[2:]), classes)


def random_map(features: Floats, images: Floats, classes: Classes = None, *, seed: int = 0) -> Floats:
    """Noise: what any method must beat, since a random map looks right surprisingly often.

    Parameters
    ----------
    features : (N, C, *S) ndarray
        Only their shape counts, since two runtimes differ in their last bit.
    images : (N, C0, *S0) ndarray
        They are what tells images apart; taken as float32.
    classes : (N, T) integer ndarray, optional
        Each class has a map of its own.
    seed : int
        Not negative.

    Returns
    -------
    (N, T, *S) ndarray
        Uniform in [0, 1). The same for the same seed, class and image, in whatever batch, order, thread or runtime;
        images that differ in a single bit have other maps.

    Raises
    ------
    InputError
        For a negative seed.

    References
    ----------
    S. Hooker et al., "A benchmark for interpretability methods in deep neural networks", NeurIPS 2019,
    arXiv:1806.10758, where such a map is the control

    Examples
    --------
    >>> random_map(np.zeros((1, 8, 2, 2)), np.zeros((1, 3, 64, 64))).shape
    (1, 1, 2, 2)
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; expected a whole number that is not negative")
    kind = np.float64 if features.dtype == np.float64 else np.float32
    chosen = np.zeros((len(features), 1), np.int64) if classes is None else classes
    maps = np.empty((*chosen.shape, *features.shape[2:]), kind)
    for n, image in enumerate(images):
        key = zlib.crc32(image.astype(np.float32, copy=False).tobytes())
        for t, index in enumerate(chosen[n]):
            np.random.default_rng([seed, key, int(index)]).random(out=maps[n, t], dtype=kind)
    return maps


register(
    Method(
        name="activationmap",
        formula=activation_map,
        needs=frozenset({"features"}),
        rectifies=False,
        paper="arXiv:2407.06059",
        summary="mean of the features over channels, the same for every class",
    )
)
register(
    Method(
        name="fem",
        formula=fem,
        needs=frozenset({"features"}),
        rectifies=False,
        paper="doi:10.1109/IPTA50016.2020.9286629",
        summary="where channels are unusually strong, the same for every class",
        options=MappingProxyType({"z": 2.0}),
    )
)
register(
    Method(
        name="random",
        formula=random_map,
        needs=frozenset({"features", "images"}),
        rectifies=False,
        paper="arXiv:1806.10758",
        summary="noise, the control that any method must beat",
        options=MappingProxyType({"seed": 0}),
    )
)
