"""From raw maps to values in [0, 1], one map at a time, and what may follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError, suggest

__all__ = ["NORMALIZATIONS", "finite", "normalize", "postprocess", "rectify"]

Floats = NDArray[np.floating[Any]]


def rectify(maps: Floats) -> Floats:
    """ReLU: negative evidence becomes zero."""
    return np.maximum(maps, 0)


def _extent(maps: Floats, axes: tuple[int, ...]) -> tuple[Floats, Floats]:
    return maps.min(axis=axes, keepdims=True), maps.max(axis=axes, keepdims=True)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, zero where whole is zero; scaled first, so tiny and huge values neither over- nor underflow."""
    _, exponent = np.frexp(whole)
    safe = np.where(whole > 0, np.ldexp(whole, -exponent), 1)
    return np.where(whole > 0, np.ldexp(part, -exponent) / safe, 0)


def _minmax(maps: Floats, axes: tuple[int, ...]) -> Floats:
    halved = maps / 2  # max - min of the largest floats would overflow
    low, high = _extent(halved, axes)
    return _ratio(halved - low, high - low)


def _relu_max(maps: Floats, axes: tuple[int, ...]) -> Floats:
    positive = rectify(maps)
    return _ratio(positive, positive.max(axis=axes, keepdims=True))


def _tanh(maps: Floats, axes: tuple[int, ...]) -> Floats:
    return np.tanh(2 * _relu_max(maps, axes))


def _sigmoid(maps: Floats, axes: tuple[int, ...]) -> Floats:
    return 0.5 * (1 + np.tanh(0.5 * maps))


NORMALIZATIONS: Mapping[str, Callable[[Floats, tuple[int, ...]], Floats]] = MappingProxyType(
    {"minmax": _minmax, "relu-max": _relu_max, "tanh": _tanh, "sigmoid": _sigmoid}
)


def normalize(maps: Floats, kind: str = "minmax", *, spatial: int = 2) -> Floats:
    """Scale each map to [0, 1].

    Parameters
    ----------
    maps : (..., *S) ndarray
    kind : {"minmax", "relu-max", "tanh", "sigmoid"}
        ``minmax``: (M - min) / (max - min). ``relu-max``: ReLU(M) / max. ``tanh``: tanh(2 ReLU(M) / max), the scaling
        of LayerCAM. ``sigmoid``: 1 / (1 + exp(-M)), the only one that keeps maps of two images comparable.
    spatial : int
        How many of the last axes belong to one map.

    Returns
    -------
    (..., *S) float32 ndarray (float64 stays float64)
        In [0, 1]; for ``tanh`` at most tanh(2) = 0.964. A constant map gives zeros (``minmax``), and so does a map
        without a positive value (``relu-max``, ``tanh``). NaN counts as the smallest value of its
        map, so it never spreads; a map of nothing but NaN counts as zeros.

    Raises
    ------
    InputError
        For an unknown kind.

    References
    ----------
    P.-T. Jiang et al., "LayerCAM: exploring hierarchical class activation maps", doi:10.1109/TIP.2021.3089943

    Examples
    --------
    >>> normalize(np.array([[-1.0, 0.0, 3.0]]), spatial=1)
    array([[0.  , 0.25, 1.  ]])
    """
    if kind not in NORMALIZATIONS:
        raise InputError(f"normalisation {kind!r} is not known. {suggest(kind, NORMALIZATIONS)}")
    maps = maps if maps.dtype in (np.float32, np.float64) else maps.astype(np.float32)
    axes = tuple(range(maps.ndim - spatial, maps.ndim))
    with np.errstate(under="ignore"):
        return NORMALIZATIONS[kind](finite(maps, axes), axes)


def finite(maps: Floats, axes: tuple[int, ...]) -> Floats:
    """NaN as the smallest value of its map, infinities as the largest floats; a map of nothing but NaN as zeros."""
    if np.isfinite(maps).all():
        return maps
    limit = np.finfo(maps.dtype).max
    clipped = np.clip(maps, -limit, limit)
    missing = np.isnan(clipped)
    low = np.min(clipped, axis=axes, keepdims=True, initial=limit, where=~missing)
    return np.where(missing, np.where(missing.all(axis=axes, keepdims=True), 0, low), clipped)


def postprocess(heat: Floats, *, threshold: float = 0.0, gain: float = 1.0) -> Floats:
    """Zero what is below ``threshold``, multiply by ``gain`` and clamp to [0, 1].

    Parameters
    ----------
    heat : ndarray
        In [0, 1].
    threshold : float
        For example 0.3: weak heat disappears.
    gain : float
        For example 1.5: strong heat saturates.

    Raises
    ------
    InputError
        For a threshold outside 0 to 1, or a negative gain.

    Examples
    --------
    >>> postprocess(np.array([0.2, 0.4, 0.9]), threshold=0.3, gain=1.5)
    array([0. , 0.6, 1. ])
    """
    if not 0 <= threshold <= 1 or not 0 <= gain < np.inf:
        raise InputError(f"threshold is {threshold} and gain {gain}; expected 0 to 1, and a number from 0 on")
    kept = np.where(heat < threshold, 0, heat)
    return np.clip(kept * gain, 0, 1).astype(heat.dtype, copy=False)
