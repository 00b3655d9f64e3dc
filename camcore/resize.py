"""Resize the last axes of an array: half-pixel centres, separable, one small matrix an axis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize"]

Mode = Literal["linear", "cubic"]

_KEYS_A = -0.75  # the cubic convolution coefficient of PyTorch, OpenCV and ONNX's default


def resize(maps: NDArray[Any], size: Sequence[int], *, mode: Mode = "linear") -> NDArray[np.floating[Any]]:
    """Resize the last ``len(size)`` axes to ``size``. What is the same everywhere stays just that.

    Equal to ``torch.nn.functional.interpolate(align_corners=False)`` without antialiasing.

    Parameters
    ----------
    maps : (..., *s) ndarray
        Floating point, or any other type, which is taken as float32.
    size : sequence of int
        The new length of each of the last axes.
    mode : {"linear", "cubic"}
        ``"cubic"`` is the cubic convolution of Keys with a = -0.75; it can overshoot the range of ``maps``.

    Returns
    -------
    (..., *size) ndarray
        Same floating type (float16 is computed and returned as float32).

    Raises
    ------
    ValueError
        For a mode that is not known, a size below 1, or more sizes than axes.

    References
    ----------
    R. Keys, "Cubic convolution interpolation for digital image processing", doi:10.1109/TASSP.1981.1163711

    Examples
    --------
    >>> resize(np.array([0.0, 1.0]), (4,))
    array([0.  , 0.25, 0.75, 1.  ])
    """
    maps = np.asarray(maps)
    if maps.dtype not in (np.float32, np.float64):
        maps = maps.astype(np.float32)
    _check(maps, size, mode)
    small = maps
    for axis, new in enumerate(size, start=maps.ndim - len(size)):
        maps = _resize_axis(maps, axis, int(new), mode)
    return maps if maps is small else _still_constant(small, maps, len(size))


def _still_constant(small: NDArray[Any], large: NDArray[Any], spatial: int) -> NDArray[Any]:
    """Weights sum to one but for rounding, and min-max would make a picture of what rounding leaves."""
    axes = tuple(range(small.ndim - spatial, small.ndim))
    low = small.min(axis=axes, keepdims=True)
    constant = low == small.max(axis=axes, keepdims=True)
    return np.where(constant, low, large) if constant.any() else large


def _check(maps: NDArray[Any], size: Sequence[int], mode: str) -> None:
    if mode not in ("linear", "cubic"):
        raise ValueError(f"mode is {mode!r}; expected 'linear' or 'cubic'")
    if len(size) > maps.ndim:
        raise ValueError(f"size {tuple(size)} has {len(size)} axes, the array only {maps.ndim}: {maps.shape}")
    if any(new < 1 for new in size) or any(old < 1 for old in maps.shape[maps.ndim - len(size) :]):
        raise ValueError(f"cannot resize {maps.shape} to {tuple(size)}: every resized axis must be at least 1 long")


def _resize_axis(maps: NDArray[Any], axis: int, new: int, mode: Mode) -> NDArray[Any]:
    old = maps.shape[axis]
    if old == new:
        return maps
    matrix = interpolation_matrix(old, new, mode).astype(maps.dtype, copy=False)
    if axis == maps.ndim - 1:
        return np.matmul(maps, matrix.T)
    flat = maps.reshape(*maps.shape[: axis + 1], -1)
    return np.matmul(matrix, flat).reshape(*maps.shape[:axis], new, *maps.shape[axis + 1 :])


@lru_cache(maxsize=128)
def interpolation_matrix(old: int, new: int, mode: Mode) -> NDArray[np.float64]:
    """The ``(new, old)`` matrix that resizes one axis; rows sum to one, borders are repeated."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if mode == "linear":
        centre = np.maximum(centre, 0.0)  # PyTorch clamps here: the same as repeating the border
    first = np.floor(centre).astype(np.int64)
    offsets, weights = (_linear if mode == "linear" else _cubic)(centre - first)
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (rows, np.clip(first + offset, 0, old - 1)), weight)
    matrix.setflags(write=False)
    return matrix


def _linear(t: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[NDArray[np.float64], ...]]:
    return (0, 1), (1 - t, t)


def _cubic(t: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[NDArray[np.float64], ...]]:
    return (-1, 0, 1, 2), (_far(1 + t), _near(t), _near(1 - t), _far(2 - t))


def _near(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel for |x| <= 1."""
    return ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1


def _far(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel for 1 < |x| < 2."""
    return ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A
