"""Methods that look at the features alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.methods.table import Method, register

__all__ = ["activation_map"]

Floats = NDArray[np.floating[Any]]


def activation_map(features: Floats, classes: NDArray[np.integer[Any]] | None = None) -> Floats:
    """Mean of the features over channels: where the network responds, for no class in particular.

    Parameters
    ----------
    features : (N, C, *S) ndarray
    classes : (N, T) integer ndarray, optional
        Only its shape counts: the same map is given for every class.

    Returns
    -------
    (N, T, *S) ndarray
        T is 1 without ``classes``.

    References
    ----------
    A. Karjauv and S. Albayrak, "LaFAM: unsupervised feature attribution with label-free activation maps",
    arXiv:2407.06059

    Examples
    --------
    >>> activation_map(np.array([[[1.0, 2.0], [3.0, 4.0]]]))
    array([[[2., 3.]]])
    """
    maps = features.mean(axis=1, keepdims=True)
    count = 1 if classes is None else classes.shape[1]
    return np.repeat(maps, count, axis=1)


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
