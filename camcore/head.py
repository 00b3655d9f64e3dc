"""The linear head: how class scores come from globally pooled features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.errors import InputError

__all__ = ["LinearHead", "global_mean", "head_error"]

Floats = NDArray[np.floating[Any]]


class LinearHead:
    """Scores as a linear function of pooled features: ``scores = weight @ mean(A) + bias``.

    Parameters
    ----------
    weight : (K, C) array_like
        One row a class. Kernel axes of a 1x1 convolution, ``(K, C, 1, ...)``, are dropped.
    bias : (K,) array_like, optional
        Zeros where absent.

    Raises
    ------
    InputError
        If the shapes do not fit each other.

    Examples
    --------
    >>> head = LinearHead([[1.0, 2.0]], [0.5])
    >>> head(np.array([[1.0, 1.0]]))
    array([[3.5]])
    """

    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None) -> None:
        matrix = _matrix(weight)
        self._weight: Floats | None = matrix
        self.bias: Floats = _bias(bias, matrix)
        self.classes, self.channels = matrix.shape

    @classmethod
    def identity(cls, classes: int) -> LinearHead:
        """The head of a network whose pooled feature maps are the class scores themselves."""
        head = cls.__new__(cls)
        head._weight = None
        head.bias = np.zeros(classes, np.float32)
        head.classes = head.channels = classes
        return head

    @property
    def is_identity(self) -> bool:
        """True where there is no matrix at all: feature map k is the map of class k."""
        return self._weight is None

    @property
    def weight(self) -> Floats:
        """(K, C) ndarray; for an identity head it is made when asked for."""
        return np.eye(self.classes, dtype=np.float32) if self._weight is None else self._weight

    def __call__(self, pooled: Floats) -> Floats:
        """(N, C) pooled features to (N, K) scores."""
        return pooled + self.bias if self._weight is None else pooled @ self._weight.T + self.bias

    def __repr__(self) -> str:
        form = "identity, " if self.is_identity else ""
        return f"LinearHead({form}{self.channels} channels -> {self.classes} classes)"


def _matrix(weight: ArrayLike) -> Floats:
    matrix = _floating(weight)
    if matrix.ndim > 2 and all(n == 1 for n in matrix.shape[2:]):
        matrix = matrix.reshape(matrix.shape[:2])
    if matrix.ndim != 2:
        raise InputError(
            f"the head's weight has shape {matrix.shape}; expected (classes, channels) or a 1x1 kernel (K, C, 1, 1)"
        )
    return matrix


def _bias(bias: ArrayLike | None, weight: Floats) -> Floats:
    if bias is None:
        return np.zeros(len(weight), weight.dtype)
    vector = _floating(bias).reshape(-1)
    if len(vector) != len(weight):
        raise InputError(f"the head's bias has {len(vector)} values for {len(weight)} classes; give one a class")
    return vector


def _floating(array: ArrayLike) -> Floats:
    values = np.asarray(array)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def global_mean(features: Floats) -> Floats:
    """(N, C, *S) features to their (N, C) means over all spatial axes, summed in at least float32."""
    axes = tuple(range(2, features.ndim))
    return features.mean(axis=axes, dtype=np.result_type(features.dtype, np.float32))


def head_error(head: LinearHead, features: Floats, scores: Floats, slack: Floats | float = 0.0) -> float:
    """How far ``head(mean(features))`` is from ``scores``, relative to the largest score.

    Parameters
    ----------
    head : LinearHead
    features : (N, C, *S) ndarray
    scores : (N, K) ndarray
    slack : float or (K,) ndarray
        Absolute difference that is allowed for free (a quantisation step).

    Returns
    -------
    float
        0 for an exact head; about 1e-6 for float32 arithmetic; above 1e-2 the head is not this one.
    """
    difference = np.abs(head(global_mean(features)) - scores) - slack
    worst = float(np.max(difference, initial=0.0))
    scale = float(np.max(np.abs(scores), initial=0.0))
    return worst / scale if scale > 0 else (0.0 if worst == 0 else float("inf"))
