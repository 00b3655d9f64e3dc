"""Heat drawn on pictures: overlays and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.colormaps import colormap, heat_levels, unit_heat
from camcore.errors import InputError
from camcore.resize import resize

__all__ = [
    "LUMA",
    "RGB",
    "Color",
    "as_picture",
    "at_least",
    "checked_color",
    "draw_boxes",
    "matlab_overlay",
    "overlay",
    "red_overlay",
]

RGB = NDArray[np.uint8]
Color = Sequence[int]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
_HALO = (20, 20, 20)
_DARKENED = np.float32(0.75)  # so much of green and blue goes where red heat is highest


def as_picture(picture: ArrayLike) -> RGB:
    """Return ``picture`` as an RGB array of bytes.

    Parameters
    ----------
    picture : (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) array_like
        uint8, or floating point in [0, 1]. A fourth channel is opacity; the picture is laid on white.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        RGB, 0..255. May be ``picture`` itself or a read-only view of it.

    Raises
    ------
    InputError
        For another shape, type or range.

    Examples
    --------
    >>> as_picture([[0.0, 1.0]]).tolist()
    [[[0, 0, 0], [255, 255, 255]]]
    """
    picture = np.asarray(picture)
    _check_shape(picture)
    channels = _as_bytes(picture if picture.ndim == 3 else picture[..., None])
    if channels.shape[2] == 4:
        return _on_white(channels)
    rgb: RGB = np.broadcast_to(channels, (*channels.shape[:2], 3))
    return rgb


def _check_shape(picture: NDArray[Any]) -> None:
    shape = picture.shape
    if len(shape) in (2, 3) and 0 not in shape and (len(shape) == 2 or shape[2] in (1, 3, 4)):
        return
    advice = "give it that shape"
    if len(shape) == 4:
        advice = "give one picture at a time"
    elif len(shape) == 3 and shape[0] in (1, 3, 4):
        advice = "the channels come first here, so use picture.transpose(1, 2, 0)"
    raise InputError(f"picture has shape {shape}; expected (H, W) or (H, W, 1, 3 or 4): {advice}")


def _as_bytes(picture: NDArray[Any]) -> RGB:
    if picture.dtype == np.uint8:
        return picture.view(np.uint8)
    if picture.dtype.kind != "f":
        raise InputError(
            f"picture is of type {picture.dtype}; expected uint8, or floating point in [0, 1]: use astype(np.uint8)"
        )
    low, high = float(picture.min()), float(picture.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN is refused too
        raise InputError(
            f"picture runs from {low:.4g} to {high:.4g}; a floating point picture is within [0, 1]: "
            "divide by 255, or undo the model's normalisation"
        )
    return _rounded(picture.astype(np.float32) * 255)


def _on_white(rgba: RGB) -> RGB:
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return _rounded(rgba[..., :3] * opacity + 255 * (1 - opacity))


def _rounded(values: NDArray[np.floating[Any]]) -> RGB:
    values = np.clip(values, 0, 255)
    values += 0.5
    return values.astype(np.uint8)


def overlay(picture: ArrayLike, heat: ArrayLike, *, cmap: str = "jet", alpha: float | Literal["heat"] = 0.5) -> RGB:
    """Blend coloured heat over a picture.

    Parameters
    ----------
    picture : (H, W[, C]) array_like
        See `as_picture`.
    heat : (h, w) array_like
        In [0, 1], of any size: it is resized to the picture. Values outside are clamped, NaN is 0.
    cmap : str
        A name in `camcore.colormaps.COLORMAPS`.
    alpha : float or "heat"
        Opacity of the heat in [0, 1]. With ``"heat"`` it is the heat itself, so that cold regions
        show the plain picture.

    Returns
    -------
    (H, W, 3) uint8 ndarray

    Raises
    ------
    InputError
        For an ``alpha`` outside [0, 1], an unknown ``cmap``, or a picture or heat of another shape or type.

    Examples
    --------
    >>> overlay(np.zeros((1, 2, 3)), [[0.0, 1.0]], cmap="gray", alpha=0.4).tolist()
    [[[0, 0, 0], [102, 102, 102]]]
    """
    picture = as_picture(picture)
    opacity = _opacity(alpha)
    levels = heat_levels(_heat_at(heat, picture))
    # Both factors depend on the level alone, so they are looked up instead of computed for each pixel.
    colour = np.take(colormap(cmap) * opacity, levels, axis=0)
    colour += picture * np.take(1 - opacity, levels, axis=0)
    colour += np.float32(0.5)
    return colour.astype(np.uint8)


def _opacity(alpha: float | str) -> NDArray[np.float32]:
    """The ``(256, 1)`` opacity of each heat level."""
    if isinstance(alpha, str):
        if alpha != "heat":
            raise InputError(f"alpha is {alpha!r}; expected a number in [0, 1] or 'heat'")
        return np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    return np.full((256, 1), _fraction("alpha", alpha, " or 'heat'"), np.float32)


def _fraction(name: str, value: float, alternative: str = "") -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; expected a number in [0, 1]{alternative}")
    return float(value)


def _heat_at(heat: ArrayLike, picture: RGB) -> NDArray[np.float32]:
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.size == 0:
        raise InputError(f"heat has shape {heat.shape}; expected one map (h, w): draw the maps one at a time")
    # Made finite first: resizing would spread one NaN over whole rows and columns.
    return resize(unit_heat(heat), picture.shape[:2]).astype(np.float32, copy=False)


def red_overlay(picture: ArrayLike, heat: ArrayLike, *, alpha: float | Literal["heat"] = "heat") -> RGB:
    """Blend heat into the red channel of a grey picture.

    With grey ``g`` (Rec. 601) and ``w``, the heat times the opacity, red becomes ``g + w (255 - g)``, and green and
    blue ``g (1 - 0.75 w)``. Grey makes heat seen on any picture: red is otherwise lost on what is red; and green and
    blue darken since on white red cannot rise. They keep a quarter, so that the picture is seen where it is hottest.

    Parameters
    ----------
    picture : (H, W[, C]) array_like
        See `as_picture`.
    heat : (h, w) array_like
        In [0, 1], of any size: it is resized to the picture. Values outside are clamped, NaN is 0.
    alpha : float or "heat"
        Opacity of the heat in [0, 1]; ``"heat"`` is 1. Cold regions show the plain grey picture whatever it is.

    Returns
    -------
    (H, W, 3) uint8 ndarray

    Raises
    ------
    InputError
        For an ``alpha`` outside [0, 1], or a picture or heat of another shape or type.

    Examples
    --------
    >>> red_overlay(np.full((1, 2, 3), 100, np.uint8), [[0.0, 1.0]]).tolist()
    [[[100, 100, 100], [255, 25, 25]]]
    """
    picture = as_picture(picture)
    opacity = _opacity(alpha)[-1, 0]
    grey = picture.astype(np.float32) @ LUMA
    weight = unit_heat(_heat_at(heat, picture)) * opacity
    dark = grey * (1 - _DARKENED * weight)
    return _rounded(np.stack([grey + weight * (255 - grey), dark, dark], axis=-1))


def matlab_overlay(picture: ArrayLike, heat: ArrayLike, *, threshold: float = 0.2) -> RGB:
    """Draw heat in the look of the MathWorks class activation mapping example.

    Heat below ``threshold`` becomes 0. Its colour is jet times a brightness that grows linearly from 0 to 1
    over the table; to it is added half the grey picture, and the sum is stretched to 0..255.

    Parameters
    ----------
    picture : (H, W[, C]) array_like
        See `as_picture`.
    heat : (h, w) array_like
        In [0, 1], of any size: it is resized to the picture. Values outside are clamped, NaN is 0.
    threshold : float
        In [0, 1].

    Returns
    -------
    (H, W, 3) uint8 ndarray
        A sum that is the same everywhere stays that constant, at most 255.

    Raises
    ------
    InputError
        For a ``threshold`` outside [0, 1], or a picture or heat of another shape or type.

    References
    ----------
    MathWorks, "Investigate Network Predictions Using Class Activation Mapping", Deep Learning Toolbox

    Examples
    --------
    >>> matlab_overlay(np.full((1, 2, 3), 0.4), [[0.1, 1.0]]).tolist()
    [[[0, 0, 0], [255, 0, 0]]]
    """
    picture = as_picture(picture)
    threshold = _fraction("threshold", threshold)
    heat = _heat_at(heat, picture)
    heat[heat < threshold] = 0
    glow = colormap("jet") * np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    summed = np.take(glow, heat_levels(heat), axis=0)
    summed += (picture.astype(np.float32) @ (LUMA / 2))[..., None]
    return _stretched(summed)


def _stretched(values: NDArray[np.float32]) -> RGB:
    """Stretched in place to 0..255; a constant stays as it is."""
    low, high = values.min(), values.max()
    if high > low:
        values -= low
        values *= 255 / (high - low)
    return _rounded(values)


def draw_boxes(
    picture: ArrayLike, boxes: Sequence[Sequence[float]], *, color: Color = (255, 255, 255), width: int | None = None
) -> RGB:
    """Outline boxes, with a dark halo so that they are seen on any background.

    Parameters
    ----------
    picture : (H, W[, C]) array_like
        See `as_picture`.
    boxes : sequence of (x0, y0, x1, y1, ...)
        In picture pixels; x1 and y1 are exclusive, and what follows them is ignored. Parts outside the
        picture are not drawn.
    color : (R, G, B)
        0..255.
    width : int, optional
        Of the line in pixels; it lies inside the box. Grows with the picture by default.

    Returns
    -------
    (H, W, 3) uint8 ndarray
        A copy.

    Raises
    ------
    InputError
        For a box that is empty, not finite or shorter than four numbers, a colour or a width out of range.
    """
    canvas = as_picture(picture).copy()
    width = at_least(1, "width", max(2, round(min(canvas.shape[:2]) / 130)) if width is None else width)
    color, halo = checked_color("color", color), math.ceil(width / 2)
    for box in boxes:
        x0, y0, x1, y1 = _corners(box)
        _outline(canvas, (x0 - halo, y0 - halo, x1 + halo, y1 + halo), width + 2 * halo, _HALO)
        _outline(canvas, (x0, y0, x1, y1), width, color)
    return canvas


def _corners(box: Sequence[float]) -> tuple[int, int, int, int]:
    numbers = [float(value) for value in box]
    x0, y0, x1, y1 = numbers[:4] if len(numbers) >= 4 else [math.nan] * 4
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        text = "expected finite (x0, y0, x1, y1) in pixels with x0 < x1 and y0 < y1"
        raise InputError(f"box is {numbers}; {text}")
    left, top = round(x0), round(y0)
    return left, top, max(round(x1), left + 1), max(round(y1), top + 1)


def _outline(canvas: RGB, box: tuple[int, int, int, int], width: int, color: Color) -> None:
    height, length = canvas.shape[:2]
    x0, y0, x1, y1 = box
    sides = (x0, y0, x1, y0 + width), (x0, y1 - width, x1, y1), (x0, y0, x0 + width, y1), (x1 - width, y0, x1, y1)
    for left, top, right, bottom in sides:
        rows = slice(min(max(top, y0, 0), height), max(min(bottom, y1), 0))
        columns = slice(min(max(left, x0, 0), length), max(min(right, x1), 0))
        canvas[rows, columns] = color


def at_least(least: int, name: str, value: int) -> int:
    """Return ``value`` if it is not below ``least``; ``name`` is for the error text."""
    if value < least:
        raise InputError(f"{name} is {value}; expected at least {least}")
    return int(value)


def checked_color(name: str, color: Color) -> Color:
    """Return ``color`` if it is one; ``name`` is for the error text."""
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise InputError(f"{name} is {color!r}; expected three numbers (R, G, B), each 0..255")
    return color
