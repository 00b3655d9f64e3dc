"""Compose the linear head while an adapter walks from the scores back to the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import HeadNotFound
from camcore.head import WHOLE, Head, LinearHead, NormHead

__all__ = ["HeadWalk", "batch_norm_affine", "channel_axis", "dense_weight", "refusal", "scaled", "times"]

Floats = NDArray[np.floating[Any]]


class HeadWalk:
    """What is known of the head after some steps back from the scores.

    The adapter names each operation it meets, last one first; the walk keeps ``scores = weight @ x + bias`` for the
    tensor x that it has reached. Once a pooling is met, x is the mean of the features over space, and the walk ends.
    Once a layer normalisation is met, it is ``scores = weight @ z(x) + bias``, with x made mean 0 and variance 1.

    Attributes
    ----------
    scores_are : str
        What the network returns: ``"logit"``, ``"probability"``, ``"log-probability"``, or ``"independent"``: a
        probability for each class by itself.
    slack : (K,) ndarray or 0.0
        Largest difference that the quantisation on the way can make.
    span : tuple of float
        Between which quantisation holds the scores: it cuts off what is beyond.
    pooled : bool
        True once a pooling has been met.
    path : list of str
        The operations met, last one first.
    """

    def __init__(self) -> None:
        self._weight: Floats | None = None
        self._gain = 1.0  # in front of x while no matrix has been met
        self._bias: Floats | None = None
        self._norm = ""  # the layer normalisation met
        self._epsilon = 0.0
        self.slack: Any = 0.0
        self.span = WHOLE
        self.scores_are = "logit"
        self.pooled = False
        self.path: list[str] = []

    @property
    def untouched(self) -> bool:
        """True while nothing that counts stands between x and the scores."""
        return self._weight is None and self._bias is None and self._gain == 1 and not self.pooled

    @property
    def gain(self) -> float:
        """The factor in front of x while no matrix has been met."""
        return self._gain

    @property
    def width(self) -> int | None:
        """How many channels x has, as far as the operations met so far tell."""
        if self._weight is not None:
            return int(self._weight.shape[1])
        return int(self._bias.size) if self._bias is not None and self._bias.size > 1 else None

    def squash(self, name: str, kind: str) -> None:
        """A softmax or sigmoid at the very end: the scores meant are those before it."""
        if not self.untouched or self.scores_are != "logit":
            raise HeadNotFound(f"{name} stands between the pooling and the scores, so the head is not linear")
        self.scores_are = kind
        self.slack, self.span = 0.0, WHOLE  # of what comes out of it
        self.path.append(name)

    @property
    def logits_are(self) -> str:
        """The kind of the scores that the head gives: ``"logit"``, or ``"independent logit"`` before a sigmoid."""
        return "independent logit" if self.scores_are == "independent" else "logit"

    def same(self, name: str) -> None:
        """An operation that changes no value (identity, reshape, cast, dropout in use)."""
        self.path.append(name)

    def linear(self, name: str, weight: Floats, bias: Floats | None) -> None:
        """``y = weight @ x + bias``; weight (K, C)."""
        self._refuse_before_norm(name)
        self.path.append(name)
        weight = _floating(weight)
        shift = np.zeros(len(weight), weight.dtype) if bias is None else _floating(bias).reshape(-1)
        self._check_width(name, len(weight))
        self._bias = self._through(np.broadcast_to(shift, (len(weight),)))
        self._weight = scaled(weight, self._gain) if self._weight is None else self._weight @ weight
        self._gain = 1.0

    def scale(self, name: str, factor: Floats | float, shift: Floats | float = 0.0) -> None:
        """``y = factor * x + shift`` with one number a channel, or one for all."""
        scales, shifts = _floating(factor).reshape(-1), _floating(shift).reshape(-1)
        if self._norm and scales.size == shifts.size == 1:
            return self._scale_before_norm(name, float(scales[0]))  # one shift for all is taken away again
        self._refuse_before_norm(name)
        if self._weight is None and scales.size > 1:
            return self.linear(name, np.diag(scales), np.broadcast_to(shifts, scales.shape))
        self.path.append(name)
        channels = self.width or max(scales.size, shifts.size)
        if scales.size not in (1, channels) or shifts.size not in (1, channels):
            raise HeadNotFound(f"{name} works with {max(scales.size, shifts.size)} values on {channels} channels")
        self._bias = self._through(shifts if self._weight is None else np.broadcast_to(shifts, (channels,)))
        if self._weight is None:
            self._gain *= float(scales[0])
        else:
            self._weight = self._weight * scales
        return None

    def layer_norm(self, name: str, gamma: Floats | None, beta: Floats | None, epsilon: float) -> None:
        """``y = gamma * z(x) + beta`` over all channels of x, which must be pooled features as they are."""
        self._refuse_before_norm(name)
        self.scale(name, 1.0 if gamma is None else gamma, 0.0 if beta is None else beta)
        self._norm, self._epsilon = name, epsilon

    def _refuse_before_norm(self, name: str) -> None:
        if self._norm:
            raise HeadNotFound(
                f"{name} stands in front of {self._norm}; a layer normalisation is understood where it reads the "
                "pooled features as they are"
            )

    def _scale_before_norm(self, name: str, factor: float) -> None:
        """``z(f x)`` is z(x) with epsilon / f^2."""
        if not factor > 0:
            self._refuse_before_norm(f"{name} (a factor of {factor:g})")
        self.path.append(name)
        self._epsilon /= factor**2

    def _check_width(self, name: str, width: int) -> None:
        """What an operation gives must be what the one behind it reads."""
        if self._weight is not None and self._weight.shape[1] != width:
            raise HeadNotFound(f"{name} gives {width} values, the operation behind it reads {self._weight.shape[1]}")
        if self._weight is None and self._bias is not None and self._bias.size not in (1, width):
            raise HeadNotFound(f"a vector of {self._bias.size} is added to the {width} values of {name}")

    def _through(self, shift: Floats) -> Floats:
        """The bias so far plus what ``shift``, added to x, makes of the scores."""
        moved = self._gain * shift if self._weight is None else self._weight @ shift
        return moved if self._bias is None else self._bias + moved

    def quantize(self, name: str, step: float, span: tuple[float, float] = WHOLE) -> None:
        """A rounding of x to multiples of ``step``: transparent, but scores may move by half a step a channel.

        ``span`` is what is cut off to; that is noted where x are the scores themselves.
        """
        self._refuse_before_norm(name)
        if self.untouched:
            self.span = (max(span[0], self.span[0]), min(span[1], self.span[1]))
        self.path.append(name)
        reach = abs(self._gain) if self._weight is None else np.abs(self._weight).sum(axis=1)
        self.slack = self.slack + 0.5 * step * reach

    def pool(self, name: str, factor: float = 1.0) -> None:
        """``x`` is ``factor`` times the mean over (some of the) spatial axes."""
        self.pooled = True
        if self._norm:
            return self._scale_before_norm(name, factor)
        self.path.append(name)
        self._gain *= factor
        if self._weight is not None:
            self._weight, self._gain = scaled(self._weight, self._gain), 1.0
        return None

    def head(self, channels: int) -> Head:
        """The head that the steps so far make of ``channels`` feature maps."""
        head = self._linear_head(channels)
        return NormHead(head.weight, head.bias, epsilon=self._epsilon) if self._norm else head

    def _linear_head(self, channels: int) -> LinearHead:
        self._check_width("the pooling", channels)
        if self._weight is not None:
            return LinearHead(self._weight, self._bias)
        if self._gain == 1 and self._bias is None:
            return LinearHead.identity(channels)
        bias = None if self._bias is None else np.broadcast_to(self._bias, (channels,))
        return LinearHead(np.eye(channels, dtype=np.float32) * np.float32(self._gain), bias)

    def how(self) -> str:
        """The operations from the features to the scores, first one first."""
        return " -> ".join(reversed(self.path))


def _floating(values: Any) -> Floats:
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def scaled(values: Floats, factor: float) -> Floats:
    """``values * factor`` in the type of ``values``, without a copy where the factor is 1."""
    return values if factor == 1 else values * values.dtype.type(factor)


def dense_weight(weight: Floats, groups: int) -> Floats:
    """A grouped (K, C/groups) weight as the (K, C) block-diagonal matrix that it stands for.

    Examples
    --------
    >>> dense_weight(np.array([[1.0], [2.0]]), 2)
    array([[1., 0.],
           [0., 2.]])
    """
    if groups == 1:
        return weight
    rows, columns = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), columns * groups), weight.dtype)
    for g in range(groups):
        dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = weight[g * rows : (g + 1) * rows]
    return dense


def batch_norm_affine(
    gamma: Floats | None, beta: Floats | None, mean: Floats, variance: Floats, epsilon: float
) -> tuple[Floats, Floats]:
    """Factor and shift of a batch normalisation with fixed statistics."""
    factor = (1 if gamma is None else _floating(gamma)) / np.sqrt(_floating(variance) + np.float32(epsilon))
    return factor, (0 if beta is None else _floating(beta)) - _floating(mean) * factor


def channel_axis(name: str, axes: Sequence[int], rank: int) -> int:
    """Which axis holds the channels when ``axes`` of a tensor of that rank are averaged away: 1, or the last."""
    spatial = {a % rank for a in axes}
    left = [a for a in range(1, rank) if a not in spatial]
    if 0 in spatial or not left:
        raise HeadNotFound(f"{name} averages over the batch or the channels (axes {list(axes)})")
    return 1 if 1 in left else rank - 1


def times(lengths: Sequence[int | None]) -> str:
    """``(7, None)`` as ``7x?``."""
    return "x".join("?" if n is None else str(n) for n in lengths)


def refusal(way: Sequence[str], pooled: bool, reason: str, flattened: str | None = None) -> str:
    """The sentence that names the obstacle on the way back from the scores."""
    route = " <- ".join(way)
    if pooled:
        return f"{reason} (way back from the scores: {route})."
    if flattened is not None:
        reason = f"the map {flattened} is flattened, so that every position has weights of its own"
    return (
        "CAM needs a global average pooling between the features and a linear head, and on the way back from the "
        f"scores ({route}) {reason}."
    )
