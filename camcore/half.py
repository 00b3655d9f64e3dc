"""Maps in half precision, of any magnitude: each with a power of two beside it where float16 alone would lose it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_half", "to_half"]

# Between these a peak keeps all 11 bits of float16, down to one part in 2^11 of it where values are subnormal.
_LEAST, _LARGEST = 2.0**-13, 65504.0


def to_half(maps: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Round maps to float16.

    float16 ends at 65504 and 6e-8. A map whose peak does not fit, or would lose digits, is divided by a power of two,
    which costs no precision; all others have the scale 1. Infinity and NaN stay what they are.

    Parameters
    ----------
    maps : (N, T, *S) ndarray

    Returns
    -------
    half : (N, T, *S) float16 ndarray
    scales : (N, T) float32 ndarray
        ``half * scales`` are the maps, to one part in 2^11 of each one's peak.

    Examples
    --------
    >>> half, scales = to_half(np.array([[[1.0, 2.0]], [[3e-9, 1e-9]]]))
    >>> scales[0], bool(abs(from_half(half, scales)[1, 0, 0] / 3e-9 - 1) < 2**-11)
    (array([1.], dtype=float32), True)
    """
    maps = np.asarray(maps, np.float32)
    peaks = np.abs(np.where(np.isfinite(maps), maps, 0)).max(axis=tuple(range(2, maps.ndim)), initial=0)
    exponents = np.where((peaks >= _LEAST) & (peaks <= _LARGEST) | (peaks == 0), 0, np.frexp(peaks)[1] - 1)
    half = np.ldexp(maps, -exponents.reshape(*exponents.shape, *(1,) * (maps.ndim - 2))).astype(np.float16)
    return half, np.ldexp(np.float32(1), exponents).astype(np.float32)


def from_half(half: NDArray[np.float16], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, T, *S) float32 maps of what :func:`to_half` made."""
    scales = np.asarray(scales, np.float32)
    return half.astype(np.float32) * scales.reshape(*scales.shape, *(1,) * (half.ndim - scales.ndim))
