"""How good a classifier is: accuracies of the best k, the confusion matrix, figures of each class, cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

__all__ = ["ClassFigures", "class_figures", "confusion_matrix", "cross_entropy", "ranks", "top_k_accuracy"]

Floats = NDArray[np.floating[Any]]
Real = NDArray[np.float64]
Whole = NDArray[np.integer[Any]]


def ranks(scores: Floats, labels: Whole) -> NDArray[np.int64]:
    """How many classes stand before the true one, from the best score on.

    Parameters
    ----------
    scores : (N, K) ndarray
        The higher the better; logits or probabilities.
    labels : (N,) integer ndarray
        The true classes, 0 to K - 1.

    Returns
    -------
    (N,) int64 ndarray
        0 where the best score is that of the true class. Of equal scores the class with the lower index stands
        first, as in `camcore.scores.top_k`; so scores that are all equal are right for class 0 only. NaN stands
        before every number, so a network that has broken down is never right by it.

    Raises
    ------
    InputError
        For labels out of range, or scores and labels that do not belong together.

    Examples
    --------
    >>> ranks(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 1]))
    array([1, 1])
    """
    labels = _checked(scores, labels)
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    behind = (scores < own) | ((scores == own) & ~earlier)
    # The true class is behind itself, unless it is NaN: then nothing is known to be behind.
    return np.count_nonzero(~behind, axis=1).astype(np.int64)


def _checked(scores: Floats, labels: Whole) -> NDArray[np.int64]:
    labels = np.asarray(labels)
    if scores.ndim != 2 or 0 in scores.shape or labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"scores have shape {scores.shape}, labels {labels.shape} and type {labels.dtype}; expected (N, K) scores "
            "and N whole numbers, neither empty"
        )
    return _in_range("labels", labels, scores.shape[1])


def _in_range(what: str, indices: Whole, classes: int) -> NDArray[np.int64]:
    wrong = indices[(indices < 0) | (indices >= classes)]
    if wrong.size:
        raise InputError(f"{what} hold class {int(wrong[0])}; expected 0 to {classes - 1}")
    return indices.astype(np.int64)


def top_k_accuracy(scores: Floats, labels: Whole, k: int = 1) -> float:
    """The share of images whose true class is among the k best.

    Parameters
    ----------
    scores, labels
        See `ranks`.
    k : int
        At least 1. From the number of classes on the accuracy is 1, unless scores are NaN.

    Examples
    --------
    >>> top_k_accuracy(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 0]), 1)
    0.5
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    return float((ranks(scores, labels) < k).mean())


def cross_entropy(logits: Floats, labels: Whole) -> Real:
    """The cross-entropy of each image: ``log(sum_k exp z_k) - z_y``, in nats.

    Parameters
    ----------
    logits : (N, K) ndarray
        Before any softmax.
    labels : (N,) integer ndarray

    Returns
    -------
    (N,) float64 ndarray
        At least 0. Their mean is the loss. Logits of any size neither over- nor underflow; infinity where that of the
        true class is -inf and another is not, NaN where logits are NaN or +inf.

    Raises
    ------
    InputError
        As `ranks`.

    Examples
    --------
    >>> cross_entropy(np.array([[0.0, 0.0], [1000.0, 0.0]]), np.array([0, 1]))
    array([6.93147181e-01, 1.00000000e+03])
    """
    labels = _checked(logits, labels)
    with np.errstate(invalid="ignore", under="ignore", divide="ignore"):
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def confusion_matrix(labels: Whole, predicted: Whole, classes: int) -> NDArray[np.int64]:
    """How often images of each class were taken for each class.

    Parameters
    ----------
    labels, predicted : (N,) integer ndarray
        0 to ``classes`` - 1.
    classes : int
        K.

    Returns
    -------
    (K, K) int64 ndarray
        Rows are true classes, columns predicted ones; the sum is N.

    Raises
    ------
    InputError
        For a class out of range, or arrays of other shapes.

    Examples
    --------
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise InputError(f"labels have shape {labels.shape}, predictions {predicted.shape}; expected (N,) both")
    pairs = _in_range("labels", labels, classes) * classes + _in_range("predictions", predicted, classes)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """What is known of each of K classes.

    Attributes
    ----------
    count : (K,) int64 ndarray
        Images of the class.
    precision : (K,) float64 ndarray
        Of the images taken for it, the share that is right; NaN where none is taken for it.
    recall : (K,) float64 ndarray
        Of its images, the share that is taken for it; NaN where it has none.
    f1 : (K,) float64 ndarray
        Their harmonic mean, ``2 TP / (2 TP + FP + FN)``; 0 where the class is never right, NaN where it has no image
        and none is taken for it.
    """

    count: NDArray[np.int64]
    precision: Real
    recall: Real
    f1: Real


def class_figures(confusion: Whole) -> ClassFigures:
    """Precision, recall and F1 of each class.

    Parameters
    ----------
    confusion : (K, K) integer ndarray
        As `confusion_matrix` gives it.

    Raises
    ------
    InputError
        For another shape.

    Examples
    --------
    >>> class_figures(np.array([[1, 1], [0, 1]])).precision
    array([1. , 0.5])
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(f"the confusion matrix has shape {confusion.shape}; expected (K, K)")
    right = np.diagonal(confusion).astype(np.float64)
    count, taken = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassFigures(count, _ratio(right, taken), _ratio(right, count), _ratio(2 * right, count + taken))


def _ratio(part: Real, whole: Whole) -> Real:
    """NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
