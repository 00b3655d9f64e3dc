"""A recorded training as one HTML file: a slider over the steps, pictures with their heat, the curves beside them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from importlib.resources import files
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camcore import drift
from camcore.colormaps import COLORMAPS, colormap, heat_levels
from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.films.axes import step_axis
from camcore.films.timeline_charts import charts
from camcore.labels import clean, short_name
from camcore.normalize import finite, normalize, rectify
from camcore.recording.recording import Curve, Recording
from camcore.resize import resize

__all__ = ["save_timeline"]

_SIDE = 320  # the longest side of a picture in the page, in pixels
_LOSSLESS = 96  # up to this side
_POLICY = (
    "default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'"
)


def save_timeline(
    path: str | PathLike[str],
    recording: Recording,
    *,
    most: int = 400,
    title: str = "Where the network looks",
    cmap: str = "jet",
    alpha: float | Literal["heat"] = "heat",
    trends: Mapping[str, Curve] | None = None,
    megabytes: float = 3.0,
) -> Path:
    """Write a page that plays a recording: one HTML file that needs no other and may ask nothing of any network.

    The maps travel at their own resolution, 8 bits a cell; the page resizes them (bilinear, half-pixel centres), scales
    each to [0, 1] at the size of its picture, and blends as `camcore.render.overlay` does. So the heat shown is within
    2/255 of ``recording.heatmaps`` at that size: the pictures' own, at most 320 pixels.

    The address may say what to show first: ``timeline.html#step=300&picture=2&theme=dark&colours=gray&play``.

    Parameters
    ----------
    path : path
        A file that is there is replaced.
    recording : Recording
        Of maps with two spatial axes.
    most : int
        Frames; more are thinned evenly, the first and the last stay.
    title : str
    cmap : str
        The colour table that is shown first: a name in `camcore.colormaps.COLORMAPS`. The reader may take another.
    alpha : float or "heat"
        The opacity at first, as in `camcore.render.overlay`. The reader may change it.
    trends : mapping of str to Curve, optional
        What `camcore.drift.trends` gives for the recording; computed where absent.
    megabytes : float
        Of all maps together. Frames are thinned further where they would take more.

    Raises
    ------
    InputError
        For a recording without a frame or with maps that do not lie on its pictures, and for an option out of range.
    OSError
        As `camcore.files.write_atomically`.
    """
    _check(recording, most, alpha, megabytes)
    colormap(cmap)
    if trends is None:
        trends = drift.trends(recording) if len(recording.classes) else {}
    shown = _shown(recording, most, megabytes)
    page = _page(
        _story(shown)
        | {"title": clean(title), "total": recording.total, "cmap": cmap, "alpha": alpha}
        | {"charts": charts(recording, trends), "ticks": step_axis(0, recording.total, most=4).ticks}
        | {"tables": {name: _text(table) for name, table in COLORMAPS.items()}}
    )
    return write_atomically(path, lambda file: file.write(page.encode()))


def _check(recording: Recording, most: int, alpha: float | str, megabytes: float) -> None:
    maps, pictures, frames = recording.maps.shape, recording.pictures.shape, len(recording)
    if frames == 0:
        raise InputError("the recording has no frame, so there is nothing to show; take one before the training starts")
    if len(maps) != 4 or len(pictures) != 4 or maps[:2] != (frames, pictures[0]) or pictures[3] != 3:
        came = f"maps of {maps} and pictures of {pictures}"
        raise InputError(f"the recording has {came}; expected ({frames} frames, N, h, w) and (N, H, W, 3)")
    if most < 2 or not 0 < megabytes < math.inf:
        raise InputError(f"most is {most} and megabytes {megabytes}; expected at least 2 frames, and a number above 0")
    if alpha != "heat" and (isinstance(alpha, str) or not 0 <= alpha <= 1):
        raise InputError(f"alpha is {alpha!r}; expected a number in [0, 1] or 'heat'")


# ---- what is shown


def _shown(recording: Recording, most: int, megabytes: float) -> Recording:
    """The frames that there is room for, with pictures of the size in which they are shown."""
    small = replace(recording, pictures=_small(recording.pictures))
    a_frame = max(1, len(small.classes) * math.prod(_grid(small)))
    return small.thinned(max(2, min(most, int(megabytes * 1e6) // a_frame)))


def _small(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    count, height, width = pictures.shape[:3]
    scale = _SIDE / max(height, width, 1)
    if count == 0 or scale >= 1:
        return pictures
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures])


def _grid(recording: Recording) -> tuple[int, int]:
    """The resolution at which maps are kept: their own, or where it is not below half the picture's, the picture's.

    So each cell is seen in some pixel at more than half its height, and 8 bits are enough.
    """
    cells, pixels = recording.maps.shape[2:], recording.pictures.shape[1:3]
    high, wide = (old if 2 * old <= new else new for old, new in zip(cells, pixels, strict=True))
    return high, wide


def _cells(recording: Recording) -> NDArray[np.uint8]:
    """(F, N, h, w) maps: rectified where the method says so, each scaled to 0..255."""
    grid = _grid(recording)
    cells = np.zeros((*recording.maps.shape[:2], *grid), np.uint8)
    for number, raw in enumerate(recording.maps if cells.size else ()):
        maps = np.asarray(raw)
        maps = finite(rectify(maps) if recording.rectifies else maps, (1, 2))
        cells[number] = heat_levels(normalize(resize(maps, grid)).astype(np.float32, copy=False))
    return cells


def _story(recording: Recording) -> dict[str, Any]:
    """Frames and pictures as plain data."""
    labels = {int(n) for n in np.unique(np.concatenate([recording.best.ravel(), recording.classes]))}
    return {
        "steps": recording.steps.tolist(),
        "epochs": _epochs(recording),
        "size": recording.pictures.shape[1:3],
        "grid": _grid(recording),
        "heat": _text(_cells(recording)),
        "best": recording.best.tolist(),
        "probabilities": [[_number(p) for p in row] for row in recording.probabilities.tolist()],
        "labels": {number: _label(recording, number) for number in sorted(labels)},
        "pictures": [_picture(recording, number) for number in range(len(recording.classes))],
        "method": clean(recording.method),
        "layer": clean(recording.layer),
    }


def _epochs(recording: Recording) -> list[float | None] | None:
    """The epoch at each frame; 0 before the first that was logged."""
    logged = recording.curves.get("epoch")
    if logged is None or len(logged.steps) == 0:
        return None
    return [0.0 if s < logged.steps[0] else _number(logged.at(s)) for s in recording.steps.tolist()]


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _label(recording: Recording, number: int) -> list[str]:
    """The name of a class, short and whole."""
    known = recording.labels is None or number < len(recording.labels)
    whole = (clean(recording.label(number)) if known else "") or f"class {number}"
    return [short_name(whole), whole]


def _picture(recording: Recording, number: int) -> dict[str, Any]:
    name = recording.names[number] if number < len(recording.names) else ""
    mask = None if recording.masks is None else recording.masks[number]
    return {
        "name": clean(name) or f"picture {number + 1}",
        "class": int(recording.classes[number]),
        "source": _webp(recording.pictures[number]),
        "outline": None if mask is None or not mask.any() else _outline(mask, recording.pictures.shape[1:3]),
    }


def _webp(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = BytesIO()
    exact = max(picture.shape[:2]) <= _LOSSLESS
    Image.fromarray(picture).save(file, "WEBP", lossless=exact, quality=90)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _outline(mask: NDArray[np.bool_], size: tuple[int, ...]) -> str:
    """A mask's white outline with a dark one around it, on nothing, as a picture of the same shape as ``size``."""
    from PIL import Image
    from scipy.ndimage import binary_dilation, binary_erosion

    scale = _SIDE / max(size)
    length = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    solid = np.asarray(Image.fromarray(mask).resize(length, Image.Resampling.NEAREST))
    line = solid & ~binary_erosion(solid, iterations=2, border_value=1)
    halo = binary_dilation(solid, iterations=1) & ~solid
    pixels = np.zeros((*solid.shape, 2), np.uint8)
    pixels[line], pixels[halo] = (255, 255), (0, 150)
    file = BytesIO()
    Image.fromarray(pixels, "LA").save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(values.tobytes()).decode()


# ---- the document


def _page(document: Mapping[str, Any]) -> str:
    parts = {
        "title": escape(str(document["title"])),
        "style": _read("timeline.css"),
        "script": _read("curves.js") + _read("timeline.js"),
        # Within a script element nothing but "<" can end it or open another.
        "data": json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    parts["policy"] = _POLICY.format(style=_hashed(parts["style"]), script=_hashed(parts["script"]))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("timeline.html"))


def _read(name: str) -> str:
    return files("camcore.films").joinpath(name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """A script or style as the page's policy names it: with this one and no other it may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
