"""What must hold before a map is made of what a backend saw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Evidence, Tap
from camcore.head import LinearHead, NormHead, global_mean

__all__ = ["check_evidence", "check_features", "check_maps", "check_scores"]

Floats = NDArray[np.floating[Any]]


def check_scores(scores: Floats) -> None:
    """Of what is not a number there is no map."""
    if not np.isfinite(scores).all():
        raise InputError("the model's scores are NaN or infinite for this input, so there is nothing to explain")


def check_features(seen: Evidence, tap: Tap) -> None:
    """The features of a layer are of as many images as the scores, or they are no features of images."""
    if seen.features is not None and len(seen.features) != len(seen.scores):
        raise InputError(
            f"layer {tap.layer!r} gives {seen.features.shape} for {len(seen.scores)} images: its first axis is not the "
            "batch (windows, heads or tokens come first), so it has no map of its own; choose another layer"
        )


def check_maps(maps: Floats, images: Floats, tap: Tap) -> None:
    """A map lies on the image: it has as many spatial axes."""
    if maps.ndim != images.ndim:
        raise InputError(
            f"the maps of layer {tap.layer!r} have {maps.ndim - 2} spatial axes, the images {images.ndim - 2}, so they "
            "cannot be laid on them; choose another layer, or say how its tokens lie: grid=(h, w), prefix=p"
        )


def check_evidence(seen: Evidence, tap: Tap, *, whole: bool = False) -> None:
    """The head must reproduce the scores of the classes to be explained; else its map would be an invention.

    ``whole`` asks for all classes: a probability is made of every score.

    Raises
    ------
    HeadNotFound
        With the largest difference and what to do.
    """
    head, features = seen.head, seen.features
    assert head is not None  # the backend's contract for these needs
    assert features is not None
    if (head.channels, head.classes) != (features.shape[1], seen.scores.shape[1]):
        raise InputError(
            f"the head is for {head.channels} channels and {head.classes} classes, the network has "
            f"{features.shape[1]} channels at {tap.layer} and {seen.scores.shape[1]} classes"
        )
    classes = np.broadcast_to(np.arange(head.classes), seen.scores.shape) if whole else seen.classes
    expected = np.take_along_axis(seen.scores, classes, axis=1)
    slack = tap.slack[classes] if np.ndim(tap.slack) else tap.slack
    with np.errstate(over="ignore", invalid="ignore"):  # infinite features do not reproduce finite scores
        rebuilt = _rows(head, global_mean(features), classes)
        difference = np.abs(np.clip(rebuilt, *tap.span) - expected) - slack
    scales = np.abs(seen.scores).max(axis=1, keepdims=True)  # each image by its own, so that its batch does not matter
    if not (difference <= tap.tolerance * np.maximum(scales, 1e-30)).all():
        worst, scale = float(np.max(difference)), float(scales.max())
        raise HeadNotFound(
            f"the head found ({tap.how}) at {tap.layer} does not reproduce the scores: they differ by up to "
            f"{worst:.3g}, with scores up to {scale:.3g}. So the map would not explain this score. Give layer= and "
            "head= by hand, or a method that needs no head"
        )


def _rows(head: LinearHead | NormHead, pooled: Floats, classes: NDArray[np.int64]) -> Floats:
    """The scores of some classes only: (N, C) pooled and (N, T) classes to (N, T)."""
    if not isinstance(head, LinearHead) or classes.shape[1] * 4 > head.classes:
        return np.take_along_axis(head(pooled), classes, axis=1)
    bias = head.bias[classes]
    if head.is_identity:
        return np.take_along_axis(pooled, classes, axis=1) + bias
    return np.einsum("ntc,nc->nt", head.weight[classes], pooled) + bias
