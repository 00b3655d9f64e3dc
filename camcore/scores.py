"""Class scores: softmax, the best k, and the classes that a user names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest

__all__ = ["choose_classes", "kind_of_scores", "probabilities", "softmax", "top_count", "top_k"]

Floats = NDArray[np.floating[Any]]
Classes = None | str | int | Sequence[int] | Sequence[str] | NDArray[np.integer[Any]]


def softmax(scores: Floats, *, axis: int = -1) -> Floats:
    """Softmax along one axis, safe for any finite input and for -inf.

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    with np.errstate(over="ignore", under="ignore"):
        shifted = np.exp(scores - np.max(scores, axis=axis, keepdims=True))
        return shifted / shifted.sum(axis=axis, keepdims=True)


def probabilities(scores: Floats, scores_are: str) -> Floats:
    """(N, K) scores of a stated kind as values in [0, 1]; logits that stand alone go through the logistic function."""
    if scores_are == "probability":
        return scores
    if scores_are == "log-probability":
        return np.exp(scores)
    alone = scores_are == "independent logit" or scores.shape[1] == 1
    return 0.5 * (1 + np.tanh(0.5 * scores)) if alone else softmax(scores)


def kind_of_scores(found: str, independent: bool | None, *, target: str = "logit") -> str:
    """What the scores are: what was found in the model, unless it says nothing and the user knows better.

    Parameters
    ----------
    found : str
        See :class:`camcore.Tap`.
    independent : bool or None
        Whether each logit has a sigmoid of its own; None where the user does not say.
    target : str
        What is explained. Where it is made of probabilities, the model must say itself which they are.

    Raises
    ------
    InputError
        Where the two differ and the target depends on it.
    """
    if independent is None or found not in (kinds := ("logit", "independent logit")):
        return found
    wanted = kinds[bool(independent)]
    if wanted != found and target in ("probability", "log-probability", "rest"):
        through = "sigmoids" if found == "independent logit" else "a softmax"
        raise InputError(
            f"independent={independent} was given, but target {target!r} is taken through {through}, as the model "
            "says; take target='logit', or end the model in what it should be"
        )
    return wanted


def top_k(scores: Floats, k: int) -> NDArray[np.int64]:
    """The indices of the ``k`` largest scores of each row, best first; ties go to the lower index.

    Parameters
    ----------
    scores : (N, K) ndarray
    k : int
        More than K gives all K.

    Returns
    -------
    (N, min(k, K)) int64 ndarray

    Examples
    --------
    >>> top_k(np.array([[1.0, 3.0, 3.0]]), 2)
    array([[1, 2]])
    """
    k = min(k, scores.shape[1])
    chosen = _best(scores) if k == 1 else _without_ties(scores, k)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64) if chosen is None else chosen


def _best(scores: Floats) -> NDArray[np.int64] | None:
    """The first of the largest scores; None where there are NaN, which it would take for the largest."""
    best = scores.argmax(axis=1)[:, None]
    return None if np.isnan(np.take_along_axis(scores, best, axis=1)).any() else best.astype(np.int64)


def _without_ties(scores: Floats, k: int) -> NDArray[np.int64] | None:
    """Several times faster than to sort all classes; None where the last place is tied or scores are NaN."""
    rows, classes = scores.shape
    least = np.partition(scores, classes - k, axis=1)[:, classes - k, None] if k else np.inf
    best = scores >= least
    if (np.count_nonzero(best, axis=1) != k).any():
        return None
    columns = np.nonzero(best)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64)


def top_count(classes: Classes) -> int:
    """How many of the best classes ``classes`` asks for; 0 where it names classes instead.

    Examples
    --------
    >>> top_count(None), top_count("top5"), top_count("cat"), top_count(7)
    (1, 5, 0, 0)
    """
    if classes is None:
        return 1
    if isinstance(classes, str) and re.fullmatch(r"top[0-9]{1,6}", classes):
        return int(classes[3:])
    return 0


def choose_classes(scores: Floats, classes: Classes, labels: Sequence[str] | None = None) -> NDArray[np.int64]:
    """The ``(N, T)`` class indices that a user means.

    Parameters
    ----------
    scores : (N, K) ndarray
    classes : None, str, int, sequence or (N, T) ndarray
        None is the best class of each image; ``"top5"`` the best five; ``"all"`` every class; another string is a
        class name; an int one class for all images; a flat list of N one class an image; an array is taken as it is.
    labels : sequence of str, optional
        Class names, needed for names.

    Raises
    ------
    InputError
        For a class out of range, an unknown name or a shape that does not fit the batch.
    """
    n, k = scores.shape
    if classes is None:
        return top_k(scores, 1)
    if isinstance(classes, str):
        return _named(scores, classes, labels)
    chosen = _indices(classes, labels)
    if chosen.dtype.kind not in "iu":
        raise InputError(f"classes are {chosen.dtype}; expected whole numbers or names")
    return _in_range(_per_image(chosen.astype(np.int64), n), k)


def _indices(classes: Any, labels: Sequence[str] | None) -> NDArray[Any]:
    chosen = np.asarray(classes)
    if chosen.dtype.kind != "U":
        return chosen
    flat = [_index(str(name), labels) for name in chosen.ravel()]
    return np.asarray(flat, np.int64).reshape(chosen.shape)


def _named(scores: Floats, name: str, labels: Sequence[str] | None) -> NDArray[np.int64]:
    n, k = scores.shape
    if name == "all":
        return np.broadcast_to(np.arange(k, dtype=np.int64), (n, k))
    if top_count(name):
        return top_k(scores, top_count(name))
    return _in_range(np.full((n, 1), _index(name, labels), np.int64), k)


def _index(name: str, labels: Sequence[str] | None) -> int:
    if _is_number(name) and (labels is None or name not in labels):
        return int(name)
    if labels is None:
        raise InputError(f"class {name!r} is a name, but the model has no class names; give labels, or an index")
    wanted = name.strip().lower()
    parts = [[p.strip().lower() for p in label.split(",")] for label in labels]
    hits = [i for i, label in enumerate(labels) if label.lower() == wanted]
    hits = hits or [i for i, names in enumerate(parts) if wanted in names]
    if not hits:
        raise InputError(f"no class is called {name!r}. {suggest(name, labels)}")
    return hits[0]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 19  # of those that int64 holds


def _per_image(chosen: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    if chosen.ndim == 0:
        return np.full((n, 1), int(chosen), np.int64)
    if chosen.ndim == 1 and len(chosen) == n:
        return chosen[:, None]
    if chosen.ndim == 2 and len(chosen) == n and chosen.shape[1] > 0:
        return chosen
    raise wrong_shape(chosen.shape, n)


def wrong_shape(shape: tuple[int, ...], n: int) -> InputError:
    """The error for classes that do not fit ``n`` images."""
    return InputError(
        f"classes have shape {shape} for {n} image{'s' if n != 1 else ''}; "
        f"expected an int, a list of {n} (one an image) or an array ({n}, T)"
    )


def _in_range(chosen: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    wrong = chosen[(chosen < 0) | (chosen >= k)]
    if wrong.size:
        raise InputError(f"class {int(wrong[0])} is out of range: the model has {k} classes, 0 to {k - 1}")
    return chosen
