"""The head: how class scores come from globally pooled features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.errors import InputError
from camcore.products import product

__all__ = ["WHOLE", "Head", "LinearHead", "NormHead", "global_mean", "head_error"]

Floats = NDArray[np.floating[Any]]
WHOLE = (-np.inf, np.inf)


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
        return pooled + self.bias if self._weight is None else product(pooled, self._weight.T) + self.bias

    def pull(self, pooled: Floats, seeds: Floats) -> Floats:
        """Gradient of ``sum_k seeds_k s_k`` with respect to the pooled features, which it does not depend on.

        Parameters
        ----------
        pooled : (N, C) ndarray
        seeds : (N, T, K) ndarray

        Returns
        -------
        (N, T, C) ndarray
        """
        return seeds if self._weight is None else product(seeds.astype(self._weight.dtype, copy=False), self._weight)

    def growth(self, pooled: Floats) -> Floats:
        """(N, K) derivative of the scores as the pooled features grow in proportion."""
        return self(pooled) - self.bias

    def bend(self, pooled: Floats, seeds: Floats) -> Floats:
        """(N, T, C) derivative of ``pull(pooled, seeds)`` as the pooled features grow: none for a linear head."""
        return np.zeros((*seeds.shape[:2], self.channels), pooled.dtype)

    def __repr__(self) -> str:
        form = "identity, " if self.is_identity else ""
        return f"LinearHead({form}{self.channels} channels -> {self.classes} classes)"


class NormHead:
    """Scores as a linear function of pooled features that a layer normalisation has made alike, as in ConvNeXt.

    ``scores = weight @ z + bias`` with ``z = (F - mean(F)) / sqrt(var(F) + epsilon)`` over the channels of
    ``F = mean(A)``. Factor and shift of the layer normalisation are folded into weight and bias.

    Parameters
    ----------
    weight : (K, C) array_like
    bias : (K,) array_like, optional
        Zeros where absent.
    epsilon : float
        As the network has it, 1e-5 unless told otherwise.

    Raises
    ------
    InputError
        If the shapes do not fit each other, or if epsilon is negative.

    References
    ----------
    J. L. Ba et al., "Layer normalization", arXiv:1607.06450

    Examples
    --------
    >>> head = NormHead([[1.0, 2.0]], [0.5], epsilon=0.0)
    >>> head(np.array([[3.0, 7.0]]))
    array([[1.5]])
    """

    def __init__(self, weight: ArrayLike, bias: ArrayLike | None = None, *, epsilon: float = 1e-5) -> None:
        if not epsilon >= 0:
            raise InputError(f"the layer normalisation's epsilon is {epsilon}; expected 0 or more")
        self.linear = LinearHead(weight, bias)
        self.epsilon = float(epsilon)
        self.classes, self.channels = self.linear.classes, self.linear.channels

    @property
    def weight(self) -> Floats:
        """(K, C) ndarray."""
        return self.linear.weight

    @property
    def bias(self) -> Floats:
        """(K,) ndarray."""
        return self.linear.bias

    def normal(self, pooled: Floats) -> Floats:
        """(N, C) pooled features to those that the linear part reads: mean 0 and variance 1 in each row."""
        return self._parts(pooled)[0]

    def _parts(self, pooled: Floats) -> tuple[Floats, Floats]:
        """The normalised features (N, C), and what they were divided by (N, 1)."""
        moved = _floating(pooled) - _floating(pooled).mean(axis=1, keepdims=True)
        sigma = np.sqrt((moved * moved).mean(axis=1, keepdims=True) + moved.dtype.type(self.epsilon))
        return moved / sigma, sigma

    def __call__(self, pooled: Floats) -> Floats:
        """(N, C) pooled features to (N, K) scores."""
        return self.linear(self.normal(pooled))

    def pull(self, pooled: Floats, seeds: Floats) -> Floats:
        """Gradient of ``sum_k seeds_k s_k`` with respect to the pooled features.

        ``(v - mean(v) - z mean(v z)) / sigma`` with ``v = seeds @ weight``, exact for every epsilon.

        Parameters
        ----------
        pooled : (N, C) ndarray
        seeds : (N, T, K) ndarray

        Returns
        -------
        (N, T, C) ndarray
        """
        z, sigma = (part[:, None, :] for part in self._parts(pooled))
        v = self.linear.pull(pooled, seeds)
        return (v - v.mean(axis=2, keepdims=True) - z * (v * z).mean(axis=2, keepdims=True)) / sigma

    def growth(self, pooled: Floats) -> Floats:
        """(N, K) derivative of the scores as the pooled features grow in proportion: epsilon alone makes it."""
        return self.linear.growth(self.normal(pooled)) * (1 - self._fullness(pooled))

    def bend(self, pooled: Floats, seeds: Floats) -> Floats:
        """(N, T, C) derivative of ``pull(pooled, seeds)`` as the pooled features grow in proportion.

        ``-r pull - 2 (1 - r) z mean(v z) / sigma`` with ``r = var / sigma^2``.
        """
        z, sigma = (part[:, None, :] for part in self._parts(pooled))
        rate = self._fullness(pooled)[:, None, :]
        shared = (self.linear.pull(pooled, seeds) * z).mean(axis=2, keepdims=True)
        return -rate * self.pull(pooled, seeds) - 2 * (1 - rate) * z * shared / sigma

    def _fullness(self, pooled: Floats) -> Floats:
        """(N, 1) share of the variance in what the features are divided by; 1 but for epsilon."""
        z = self.normal(pooled)
        return (z * z).mean(axis=1, keepdims=True)

    def __repr__(self) -> str:
        return f"NormHead({self.channels} channels -> {self.classes} classes, epsilon={self.epsilon:g})"


Head = LinearHead | NormHead


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


def head_error(
    head: Head,
    features: Floats,
    scores: Floats,
    slack: Floats | float = 0.0,
    *,
    span: tuple[float, float] = WHOLE,
) -> float:
    """How far ``head(mean(features))`` is from ``scores``, relative to the largest score.

    Parameters
    ----------
    head : LinearHead or NormHead
    features : (N, C, *S) ndarray
    scores : (N, K) ndarray
    slack : float or (K,) ndarray
        Absolute difference that is allowed for free (a quantisation step).
    span : tuple of float
        Between which scores are held; what the head gives beyond is cut off too.

    Returns
    -------
    float
        0 for an exact head; about 1e-6 for float32 arithmetic; above 1e-2 the head is not this one.
    """
    difference = np.abs(np.clip(head(global_mean(features)), *span) - scores) - slack
    worst = float(np.max(difference, initial=0.0))
    scale = float(np.max(np.abs(scores), initial=0.0))
    return worst / scale if scale > 0 else (0.0 if worst == 0 else float("inf"))
