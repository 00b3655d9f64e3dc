"""Colour tables of 256 entries, and heat drawn with them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.errors import InputError

__all__ = ["COLORMAPS", "colorize", "colormap"]

Table = NDArray[np.uint8]

# Every fifth entry of the published tables as RRGGBB; linear between them is within 2/255 of the full tables.
_TURBO = (
    "30123b36215f3b2f803f3e9c424bb54559cb4666dd4773eb4680f6458cfd4099ff38a5fb2fb2f4"
    "27bee91fc9dd1ad4d018ddc21ae4b622ebaa2ff19b3ff68a52fa7a65fd6979fe598bff4b9cfe40"
    "a9fb39b7f735c3f134d0ea34dbe236e5d938eecf3af5c53afaba39fdae35fea130fe932afc8423"
    "f9751df46617ef5811e84b0ce14109d83706ce2d04c32503b71d02a916019b0f018b09027a0403"
)
_VIRIDIS = (
    "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a"
    "3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d"
    "20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac864"
    "65cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725"
)
_INFERNO = (
    "00000402020c0504170a072210092d160b391e0c45260c512f0a5b380962400a67490b6a510e6c"
    "59106e61136e69166e71196e781c6d801f6c88226a902568982766a02a63a82e5fb0315bb73557"
    "bf3952c63d4dcc4248d34743d94d3ddf5337e45a31e9612bed6925f1711ff47918f78212f98b0b"
    "fa9407fb9d07fca60cfcb014fbba1ffac42af8cd37f6d746f4e156f2ea69f2f27df5f992fcffa4"
)


def _jet() -> Table:
    """MATLAB's ``jet(256)``: per channel a ramp of 64 entries up, a plateau, and 64 entries down."""
    entry = np.arange(256)[:, None]
    foot, end = np.array([95, 31, -33]), np.array([287, 223, 159])
    return _frozen(np.clip(np.minimum(entry - foot, end - entry) / 64, 0, 1) * 255)


def _gray() -> Table:
    return _frozen(np.repeat(np.arange(256)[:, None], 3, axis=1))


def _interpolated(knots: str) -> Table:
    colours = np.frombuffer(bytes.fromhex(knots), np.uint8).reshape(-1, 3)
    entry = np.arange(256)
    at = np.linspace(0, 255, len(colours))
    return _frozen(np.stack([np.interp(entry, at, channel) for channel in colours.T], axis=1))


def _frozen(table: NDArray[Any]) -> Table:
    table = np.rint(table).astype(np.uint8)
    table.setflags(write=False)
    return table


COLORMAPS: Mapping[str, Table] = MappingProxyType(
    {
        "jet": _jet(),
        "turbo": _interpolated(_TURBO),
        "viridis": _interpolated(_VIRIDIS),
        "inferno": _interpolated(_INFERNO),
        "gray": _gray(),
    }
)
"""The colour tables by name, each a read-only (256, 3) uint8 array from cold to hot."""


def colormap(name: str) -> Table:
    """Return the colour table called ``name``.

    Parameters
    ----------
    name : {"jet", "turbo", "viridis", "inferno", "gray"}
        ``"jet"`` is MATLAB's, whose breakpoints are up to 34/255 away from matplotlib's table of that name.

    Returns
    -------
    (256, 3) uint8 ndarray
        Cold to hot, 0..255; the one shared array of that name, read-only.

    Raises
    ------
    InputError
        For a name that is not known.

    Examples
    --------
    >>> colormap("jet")[[0, 255]].tolist()
    [[0, 0, 131], [128, 0, 0]]
    """
    if name not in COLORMAPS:
        near = get_close_matches(str(name).lower(), COLORMAPS, n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"colormap {name!r} is not known; expected one of {', '.join(COLORMAPS)}{hint}")
    return COLORMAPS[name]


def colorize(heat: ArrayLike, *, cmap: str = "jet") -> NDArray[np.uint8]:
    """Draw each heat value in its colour.

    Parameters
    ----------
    heat : (...) array_like
        Floating point (or bool) in [0, 1]; values outside are clamped, NaN is drawn as 0.
    cmap : str
        A name in `COLORMAPS`.

    Returns
    -------
    (..., 3) uint8 ndarray
        RGB, 0..255.

    Raises
    ------
    InputError
        For an unknown ``cmap``, and for heat that is not floating point or bool.

    Examples
    --------
    >>> colorize([0.0, 0.5, np.nan], cmap="gray").tolist()
    [[0, 0, 0], [128, 128, 128], [0, 0, 0]]
    """
    table = colormap(cmap)
    return np.take(table, heat_levels(unit_heat(heat)), axis=0)


def unit_heat(heat: ArrayLike) -> NDArray[np.float32]:
    """Heat as float32 within [0, 1], with NaN as 0."""
    heat = np.asarray(heat)
    if heat.dtype.kind not in "fb":
        raise InputError(f"heat is of type {heat.dtype}; expected floating point in [0, 1]: divide it by its maximum")
    inside = np.clip(heat, 0, 1).astype(np.float32)
    return np.where(np.isnan(inside), np.float32(0), inside)


def heat_levels(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest of the 256 table entries of heat that is within [0, 1]."""
    return (heat * np.float32(255) + np.float32(0.5)).astype(np.uint8)
