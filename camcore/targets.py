"""What is explained: the number, made of the class scores, whose origin in the picture is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest

__all__ = ["TARGETS", "Aim", "Target", "difference", "finer", "target"]

Floats = NDArray[np.floating[Any]]
STRENGTH, COUNT = 0.6, 3  # of Finer-CAM
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """A number ``y`` for each class, made of the scores.

    Attributes
    ----------
    name : str
    values : callable
        ``values(scores, classes, references, alone)``: (M, K) scores and (M, T) classes to (M, T) numbers. ``alone``
        says that each class has a sigmoid of its own.
    slopes : callable
        Of the same arguments, the (M, T, K) derivatives of these numbers with respect to the scores.
    linear : bool
        Whether the derivatives do not depend on the scores.
    references : callable, optional
        ``references(scores, classes)``: the (N, T, R) classes to compare with, chosen once from the scores of the
        untouched images.
    code : str
        How :func:`target` is asked for it, where that says all; a backend may then compute the slopes itself. A copy
        with other functions has none.
    """

    name: str
    values: Callable[..., Floats]
    slopes: Callable[..., Floats]
    linear: bool = False
    references: Callable[[Floats, Indices], Indices] | None = None
    code: str = field(default="", init=False)

    @property
    def plain(self) -> bool:
        """True for the scores themselves."""
        return self.name == "logit"

    def aim(self, scores: Floats, classes: Indices, *, alone: bool = False) -> Aim:
        """Fix the classes, and those to compare with, of a batch."""
        scores = scores.astype(np.float64)
        none = np.empty((*classes.shape, 0), np.int64)
        references = none if self.references is None else self.references(scores, classes)
        return Aim(self, scores, classes, references, alone)


@dataclass(frozen=True, eq=False)
class Aim:
    """A target of the images of one batch: scores (N, K), classes (N, T), references (N, T, R)."""

    target: Target
    scores: Floats
    classes: Indices
    references: Indices
    alone: bool = False

    @property
    def linear(self) -> bool:
        return self.target.linear

    @property
    def plain(self) -> bool:
        return self.target.plain

    def values(self) -> Floats:
        """The (N, T) target values."""
        return self.target.values(self.scores, self.classes, self.references, self.alone)

    def slopes(self) -> Floats:
        """The (N, T, K) derivatives with respect to the scores."""
        return self.target.slopes(self.scores, self.classes, self.references, self.alone)

    def of(self, image: int, scores: Floats) -> Floats:
        """The (M, T) values of other scores (M, K) of one image, classes and references as before."""
        shape = (len(scores), *self.classes.shape[1:])
        classes = np.broadcast_to(self.classes[image], shape)
        references = np.broadcast_to(self.references[image], (*shape, self.references.shape[2]))
        return self.target.values(scores.astype(np.float64, copy=False), classes, references, self.alone)

    def bend(self, direction: Floats) -> Floats:
        """How the slopes change along an (N, K) direction of the scores: (N, T, K), the Hessian times it.

        By central differences in float64, good to about 1e-8 (1e-6 for a user's function, whose slopes are themselves
        differences); exactly zero for a linear target.
        """
        if self.linear:
            return np.zeros((*self.classes.shape, self.scores.shape[1]))
        size = np.abs(direction).max(axis=1, keepdims=True)
        step = 1e-4 / np.where(size > 0, size, 1)
        change = (
            self.moved(self.scores + step * direction).slopes() - self.moved(self.scores - step * direction).slopes()
        )
        return change / (2 * step[:, :, None])

    def moved(self, scores: Floats) -> Aim:
        """The same aim at other scores (N, K): classes and references stay."""
        return replace(self, scores=scores)

    def held(self) -> Target:
        """The target for other copies of the same images, and these classes or some: it compares with the same."""

        def references(scores: Floats, classes: Indices) -> Indices:
            at = (classes[:, :, None] == self.classes[:, None, :]).argmax(axis=2)
            return np.take_along_axis(self.references, at[:, :, None], axis=1)

        code = "" if self.references.shape[2] else self.target.code
        return _coded(replace(self.target, references=references), code)


def _coded(target: Target, code: str) -> Target:
    object.__setattr__(target, "code", code)  # it is frozen, and new
    return target


def _take(scores: Floats, classes: Indices, *_: Any) -> Floats:
    return np.take_along_axis(scores, classes, axis=1)


def _one_hot(scores: Floats, classes: Indices, *_: Any) -> Floats:
    slopes = np.zeros((*classes.shape, scores.shape[1]), scores.dtype)
    np.put_along_axis(slopes, classes[:, :, None], 1, axis=2)
    return slopes


def _log_probabilities(scores: Floats, alone: bool) -> Floats:
    """Exact also next to 0, where a probability next to 1 has its logarithm."""
    if alone or scores.shape[1] == 1:
        return -np.logaddexp(0, -scores)
    best = scores.argmax(axis=1, keepdims=True)
    shifted = scores - np.take_along_axis(scores, best, axis=1)
    others = np.exp(shifted)
    np.put_along_axis(others, best, 0, axis=1)
    return shifted - np.log1p(others.sum(axis=1, keepdims=True))


def _log_probability(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    return _take(_log_probabilities(scores, alone), classes)


def _log_probability_slopes(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    """``1 - p_c`` at the class itself, which is what the others have together, and ``-p_j`` at class j."""
    logs = _log_probabilities(scores, alone)
    shape = (*classes.shape, scores.shape[1])
    slopes = np.zeros(shape) if alone else np.repeat(-np.exp(logs)[:, None, :], shape[1], axis=1)
    np.put_along_axis(slopes, classes[:, :, None], -np.expm1(_take(logs, classes))[:, :, None], axis=2)
    return slopes


def _probability(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    return np.exp(_log_probability(scores, classes, references, alone))


def _probability_slopes(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    probability = _probability(scores, classes, references, alone)
    return probability[:, :, None] * _log_probability_slopes(scores, classes, references, alone)


def _rest(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    return _take(scores, classes) + _log_probability(scores, classes, references, alone)


def _rest_slopes(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
    return _one_hot(scores, classes) + _log_probability_slopes(scores, classes, references, alone)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "logit": _coded(Target("logit", _take, _one_hot, linear=True), "logit"),
        "probability": _coded(Target("probability", _probability, _probability_slopes), "probability"),
        "log-probability": _coded(
            Target("log-probability", _log_probability, _log_probability_slopes), "log-probability"
        ),
        "rest": _coded(Target("rest", _rest, _rest_slopes), "rest"),
    }
)


def _contrast(
    name: str, strength: float, references: Callable[[Floats, Indices], Indices], *, code: str = ""
) -> Target:
    """``s_c - strength * mean of the references' scores``."""

    def values(scores: Floats, classes: Indices, others: Indices, alone: bool) -> Floats:
        rows = np.arange(len(scores))[:, None, None]
        rivals = scores[rows, others].mean(axis=2) if others.shape[2] else 0.0
        return _take(scores, classes) - strength * rivals

    def slopes(scores: Floats, classes: Indices, others: Indices, alone: bool) -> Floats:
        out = _one_hot(scores, classes)
        for r in range(others.shape[2]):
            rival = others[:, :, r, None]
            less = np.take_along_axis(out, rival, axis=2) - strength / others.shape[2]
            np.put_along_axis(out, rival, less, axis=2)
        return out

    return _coded(Target(name, values, slopes, linear=True, references=references), code)


def _nearest(scores: Floats, classes: Indices, count: int) -> Indices:
    """The ``count`` classes whose scores are nearest to that of each class, itself left out."""
    distance = np.abs(scores[:, None, :] - _take(scores, classes)[:, :, None])
    np.put_along_axis(distance, classes[:, :, None], np.inf, axis=2)
    count = min(count, scores.shape[1] - 1)
    return np.argsort(distance, axis=2, kind="stable")[:, :, :count].astype(np.int64)


def _best_other(scores: Floats, classes: Indices) -> Indices:
    if scores.shape[1] == 1:
        raise InputError("target difference: the model has one class and no other to compare with; take logit")
    others = np.repeat(scores[:, None, :], classes.shape[1], axis=1)
    np.put_along_axis(others, classes[:, :, None], -np.inf, axis=2)
    return others.argmax(axis=2)[:, :, None].astype(np.int64)


def difference(other: int | None = None) -> Target:
    """The score of a class minus that of another: why this one and not that one.

    Parameters
    ----------
    other : int, optional
        The index of the other class; the best one beside the class explained where absent. The difference of a class
        to itself is zero, and so is its map.

    Raises
    ------
    InputError
        When it is applied to a model without that class, or with one class only.

    Examples
    --------
    >>> aim = difference(0).aim(np.array([[1.0, 3.0]]), np.array([[1]]))
    >>> aim.values()
    array([[2.]])
    """
    if other is None:
        return _contrast("difference", 1.0, _best_other, code="difference")

    def fixed(scores: Floats, classes: Indices) -> Indices:
        if not 0 <= other < scores.shape[1]:
            raise InputError(
                f"target difference:{other}: the model has {scores.shape[1]} classes, 0 to {scores.shape[1] - 1}"
            )
        return np.full((*classes.shape, 1), other, np.int64)

    return _contrast(f"difference:{other}", 1.0, fixed, code=f"difference:{other}")


def finer(strength: float = STRENGTH, count: int = COUNT) -> Target:
    """The score of a class minus ``strength`` times the mean score of the classes most alike.

    Parameters
    ----------
    strength : float
        0 is the score alone.
    count : int
        How many classes: those whose scores are nearest. All others where there are fewer; none in a model of one
        class, whose score it is then.

    References
    ----------
    Z. Zhang et al., "Finer-CAM: spotting the difference reveals finer details for visual explanation",
    arXiv:2501.11309
    """
    code = "finer" if (strength, count) == (STRENGTH, COUNT) else ""
    return _contrast("finer", strength, lambda scores, classes: _nearest(scores, classes, count), code=code)


def _by_hand(function: Callable[[Floats], Floats]) -> Target:
    """A user's function of (M, K) scores; its slopes by central differences in float64."""

    def answer(scores: Floats) -> Floats:
        try:
            values = np.asarray(function(scores))
            return values if values.dtype.kind == "f" else values.astype(np.float64)
        except Exception as error:  # the code of others raises what it likes
            raise InputError(
                f"the target function fails on a NumPy array of {scores.shape} scores, one row an image: "
                f"{type(error).__name__}: {error}. Expected NumPy in, one number a row out: lambda s: s[:, 3]"
            ) from error

    def call(scores: Floats) -> Floats:
        values = answer(scores).astype(np.float64)
        if values.shape != (len(scores),):
            raise InputError(
                f"the target function gives shape {values.shape} for scores {scores.shape}; expected one number a row: "
                f"({len(scores)},)"
            )
        if not np.isfinite(values).all():
            raise InputError("the target function gives NaN or infinity for finite scores; expected numbers")
        return values

    def values(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
        return np.repeat(call(scores)[:, None], classes.shape[1], axis=1)

    def slopes(scores: Floats, classes: Indices, references: Indices, alone: bool) -> Floats:
        rows = [_gradient(call, row, answer(row[None]).dtype) for row in scores]
        return np.repeat(np.stack(rows)[:, None], classes.shape[1], axis=1)

    return Target(f"function {getattr(function, '__name__', type(function).__name__)}", values, slopes)


def _gradient(function: Callable[[Floats], Floats], row: Floats, precision: Any, most: int = 1024) -> Floats:
    """Central differences of a function at one row of scores, at most ``most`` rows at a time.

    The step fits the precision in which the function answers.
    """
    step = float(np.finfo(precision).eps) ** (1 / 3) * max(1.0, float(np.abs(row).max(initial=0.0)))
    slopes = np.empty(len(row))
    for start in range(0, len(row), most):
        shifts = step * np.eye(min(most, len(row) - start), len(row), k=start)
        slopes[start : start + most] = (function(row + shifts) - function(row - shifts)) / (2 * step)
    return slopes


def target(wanted: str | Target | Callable[[Floats], Floats]) -> Target:
    """The target that a user means.

    Parameters
    ----------
    wanted : str, Target or callable
        ``"logit"``; ``"probability"`` or ``"log-probability"`` after softmax (or the logistic function, where each
        class has its own); ``"rest"``: their sum, of the ShapleyCAM paper (arXiv:2501.06261); ``"finer"``;
        ``"difference"`` to the best other class, ``"difference:7"`` to class 7; or a function from a NumPy array of
        (M, K) scores to (M,) numbers (``lambda s: s[:, 3]``), for PyTorch models too; its derivatives are taken by
        central differences.

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> target("probability").aim(np.array([[0.0, 0.0]]), np.array([[1]])).values()
    array([[0.5]])
    """
    if isinstance(wanted, Target):
        return wanted
    if callable(wanted):
        return _by_hand(wanted)
    name, _, other = str(wanted).partition(":")
    if name == "difference" and (not other or other.isdecimal()):
        return difference(int(other) if other else None)
    if wanted == "finer":
        return finer()
    if not isinstance(wanted, str) or wanted not in TARGETS:
        raise InputError(f"target {wanted!r} is not known. {suggest(str(wanted), [*TARGETS, 'difference', 'finer'])}")
    return TARGETS[wanted]
