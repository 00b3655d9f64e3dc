"""Prove that gradients written as graph nodes are the model's: against its own differences, or another framework's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, MethodNotPossible
from camcore.methods import method
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.checking.verify import relative
from camcore_onnx.gradients.differences import Probe

__all__ = ["LIMIT", "Agreement", "Reference", "against_differences", "against_reference"]

Floats = NDArray[np.floating[Any]]
# Takes images, a layer and the class of each image; gives its (N, C, *S) features and the gradients of that logit.
Reference = Callable[[Floats, str, NDArray[np.int64]], tuple[Floats, Floats]]
LIMIT = 1e-3
_HALF = 50  # how much further half precision may be off
_MEDIAN = 0.6745  # of the size of a normal number
_FORWARD = 1e-3


@dataclass(frozen=True)
class Agreement:
    """How well the gradient at a layer agrees.

    Attributes
    ----------
    layer : str
    difference : float
        ``||gradient - reference|| / ||reference||``, the median over images; estimated where the reference is
        differences along random directions.
    worst : float
        Of the image that agrees least: one activation that rounds to the other side of a kink moves it.
    limit : float
    passed : bool
    how : str
        What it was compared with.
    maps : float or None
        The largest difference of Grad-CAM's maps, relative to their largest value.
    """

    layer: str
    difference: float
    worst: float
    limit: float
    passed: bool
    how: str
    maps: float | None = None


def against_differences(
    backend: OnnxBackend,
    layer: str | None,
    images: Floats,
    *,
    rtol: float = LIMIT,
    atol: float = 0.0,
    directions: int = 5,
    seconds: float = 20.0,
    seed: int = 0,
) -> Agreement:
    """Compare with central differences of the network behind a layer, in float64, of the best class's logit.

    Along a direction ``d`` of independent normal numbers ``(g - g') . d`` is normal with deviation ``||g - g'||``: the
    median of its size over some directions estimates that. It is the median, and over images too, since at a kink (a
    ReLU, a maximum) two runs may round to different sides, and the derivative there is another one. The step is the
    shortest at which a longer one gives the same, and how far they differ is added to the limit.

    Parameters
    ----------
    backend : OnnxBackend
    layer : str or None
    images : (N, C, *S) ndarray
        Each is looked at by itself.
    rtol, atol : float
        It passes up to ``rtol * ||gradient|| + atol``; in half precision up to 50 times that.
    directions : int
        For each image; as many as are done in ``seconds``, and at least three.

    Raises
    ------
    MethodNotPossible
        If there is no gradient, or it is an approximation by design; if the evaluator does not know an operator, or
        does not reproduce the scores.
    """
    name = backend.value(layer).name or ""
    _refuse_approximations(backend, name)
    half = _HALF if _is_half(backend, name) else 1
    probe, limit = Probe.of(backend, name, images, tolerance=_FORWARD * half), rtol * half
    found = _along(probe, limit, atol, directions, seconds, seed)
    if found.passed or not probe.repeated:
        return found
    kept = replace(probe, still=True)
    if any(np.linalg.norm(kept.gradient(i)) < 0.5 * np.linalg.norm(probe.gradient(i)) for i in range(len(images))):
        raise MethodNotPossible(
            f"the features at {name!r} that matter share their values with others: in a maximum of equal numbers there "
            "is no derivative to compare with; take another layer, or compare with the network it was made of"
        )
    part = _along(kept, limit, atol, directions, seconds, seed)
    return replace(part, how=f"{part.how}; but for features of equal value, which may tie in a maximum")


def _along(probe: Probe, rtol: float, atol: float, directions: int, seconds: float, seed: int) -> Agreement:
    """The differences along random directions."""
    generator, start = np.random.default_rng(seed), time.monotonic()
    step, unsure = probe.best_step(generator)
    count = len(probe.classes)
    rows: list[list[float]] = []
    while len(rows) < directions and (len(rows) < 3 or time.monotonic() - start < seconds):
        rows.append([probe.error(i, probe.direction(i, generator), step) for i in range(count)])
    each = np.median(np.array(rows), axis=0) / _MEDIAN
    how = f"central differences in float64: {count} images, {len(rows)} directions"
    scale = float(np.median([np.linalg.norm(probe.gradient(i)) for i in range(count)]))
    return _agreement(probe.tail.layer, each, rtol + unsure, atol, scale, how)


def against_reference(
    backend: OnnxBackend,
    layer: str,
    images: Floats,
    reference: Reference,
    *,
    rtol: float = LIMIT,
    atol: float = 0.0,
) -> Agreement:
    """Compare gradients and maps with those of another framework, of the best class's logit.

    Raises
    ------
    InputError
        If the features are not the same there: another tensor, or other weights.
    """
    classes = backend.scores(images).argmax(axis=1).astype(np.int64)
    needs = frozenset({"features", "gradients"})
    seen = backend.observe(images, needs=needs, layers=[layer], classes=classes[:, None])[0]
    assert seen.gradients is not None  # asked for
    features, expected = reference(images, layer, classes)
    off = relative(seen.need_features(), features)
    if not off <= max(_FORWARD, rtol) * (_HALF if _is_half(backend, layer) else 1):
        raise InputError(
            f"the features at {layer!r} differ by {off:.1e} of the largest one, shapes {seen.need_features().shape} "
            f"and {features.shape}: it is another tensor, or the weights are not those of the file"
        )
    full = features.shape
    ours, theirs = np.broadcast_to(seen.gradients[:, 0], full), np.broadcast_to(expected, full)
    each = np.array([_ratio(a, b) for a, b in zip(ours, theirs, strict=True)])
    scale = float(np.median([np.linalg.norm(g) for g in theirs]))
    limit = rtol * (_HALF if _is_half(backend, layer) else 1)
    row = method("gradcam")
    maps = (
        row.formula(features=f, gradients=g, classes=classes[:, None], **row.options)
        for f, g in ((seen.need_features(), ours[:, None]), (features, theirs[:, None]))
    )
    return _agreement(layer, each, limit, atol, scale, f"the other model, {len(images)} images", relative(*maps))


def _agreement(
    layer: str, each: NDArray[Any], rtol: float, atol: float, scale: float, how: str, maps: float | None = None
) -> Agreement:
    difference = float(np.median(each))
    passed = bool(difference <= rtol or difference * scale <= atol)
    if scale == 0:
        how += "; the gradient is zero"
    return Agreement(layer, difference, float(each.max()), rtol, passed, how, maps)


def _ratio(found: Floats, expected: Floats) -> float:
    off, size = float(np.linalg.norm(found - expected)), float(np.linalg.norm(expected))
    return off / size if size > 0 else (0.0 if off == 0 else float("inf"))


def _is_half(backend: OnnxBackend, layer: str) -> bool:
    dtypes = (backend.value(layer).dtype, backend.found.logits.dtype)
    return any(d is not None and d.name in ("FLOAT16", "BFLOAT16") for d in dtypes)


def _refuse_approximations(backend: OnnxBackend, layer: str) -> None:
    value = backend.value(layer)
    why = backend.differentiator.obstacle(value)
    if why:
        raise MethodNotPossible(f"there is no gradient at {layer!r}: {why}")
    approximate = backend.differentiator.approximate(value)
    if approximate:
        raise MethodNotPossible(
            f"the gradient at {layer!r} is an approximation by design ({'; '.join(approximate)}), and differences of a "
            "function that jumps are no reference; compare it with the network it was made of"
        )
