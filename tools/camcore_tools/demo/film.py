"""The training as a film: overlays of the watched pictures beside the curves of loss and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore import render
from camcore.files import write_atomically
from camcore_tools.demo.watch import History

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil

__all__ = ["draw_film", "write_film"]

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

_GROUND, _PANEL, _GRID = (16, 20, 28), (24, 30, 41), (48, 56, 70)
_TEXT, _FAINT = (226, 232, 240), (139, 150, 168)
_LOSS, _LOSS_FAINT, _ACCURACY = (251, 146, 60), (96, 66, 45), (56, 189, 248)
_RIGHT, _WRONG = (74, 222, 128), (248, 80, 90)
_TILE, _BORDER, _GAP, _MARGIN, _HEADER, _CHART = 84, 3, 4, 14, 22, 268
_ROWS, _LEAST = 3, 200  # pictures of a kind, and the height of the chart where there are fewer
_FINE = 2  # the chart is drawn this much larger and reduced: Pillow's lines have no smooth edges
_COLOURS = 160
_FRAME_MS, _LAST_MS = 100, 4000


def draw_film(history: History, pictures: Sequence[Pixels], columns: Sequence[str]) -> list[Pixels]:
    """Every frame as a picture.

    Parameters
    ----------
    history : History
    pictures : sequence of (H, W, 3) uint8 ndarray
        The watched pictures; equally many for each column, one column after the other. At most three of each are shown.
    columns : sequence of str
        What is written above each column.

    Returns
    -------
    list of (height, width, 3) uint8 ndarray
    """
    inner = _TILE - 2 * _BORDER
    small = [np.asarray(_image(p).resize((inner, inner), resample=_lanczos())) for p in pictures]
    each = len(pictures) // len(columns)
    rows = min(each, _ROWS)
    shown = [column * each + row for column in range(len(columns)) for row in range(rows)]
    height = max(_LEAST, rows * (_TILE + _GAP) - _GAP)
    header = _header(columns)
    frames = []
    for frame in history.frames:
        tiles = [(small[n], frame.heats[n], bool(frame.right[n])) for n in shown]
        frames.append(_compose(_montage(tiles, rows), header, _chart(history, frame.step, height)))
    return frames


def write_film(path: str | PathLike[str], frames: Sequence[Pixels]) -> None:
    """Write frames as an endless GIF with one palette of their own colours; the last frame is held for a while."""
    from PIL import Image

    palette, plain = _palette(frames), Image.Dither.NONE  # dots that jump about would flicker, and compress badly
    first, *rest = [_image(frame).quantize(palette=palette, dither=plain) for frame in frames]
    durations = [_FRAME_MS] * len(rest) + [_LAST_MS]
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": durations, "loop": 0}
    write_atomically(path, lambda file: first.save(file, "GIF", **options))


def _palette(frames: Sequence[Pixels]) -> PilImage:
    chosen = frames[:: max(1, len(frames) // 8)]
    return _image(np.concatenate([*chosen, frames[-1]])).quantize(_COLOURS)


def _image(pixels: Pixels) -> PilImage:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _lanczos() -> Any:
    from PIL import Image

    return Image.Resampling.LANCZOS


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


# ---- the pictures


def _montage(tiles: Sequence[tuple[Pixels, NDArray[np.float32], bool]], rows: int) -> Pixels:
    """Pictures with their heat, column after column, each in a frame that says whether the network has it right."""
    across = len(tiles) // rows
    step = _TILE + _GAP
    canvas = np.full((rows * step - _GAP, across * step - _GAP, 3), _GROUND, np.uint8)
    for n, (picture, heat, right) in enumerate(tiles):
        y, x = n % rows * step, n // rows * step
        canvas[y : y + _TILE, x : x + _TILE] = _RIGHT if right else _WRONG
        inside = slice(y + _BORDER, y + _TILE - _BORDER), slice(x + _BORDER, x + _TILE - _BORDER)
        canvas[inside] = render.overlay(picture, heat, alpha="heat")
    return canvas


def _header(columns: Sequence[str]) -> Pixels:
    from PIL import Image, ImageDraw

    step = _TILE + _GAP
    strip = Image.new("RGB", (len(columns) * step - _GAP, _HEADER), _GROUND)
    pencil = ImageDraw.Draw(strip)
    for n, name in enumerate(columns):
        pencil.text((n * step + _TILE / 2, _HEADER - 6), name, _FAINT, _font(12), anchor="ms")
    return np.asarray(strip)


def _compose(montage: Pixels, header: Pixels, chart: Pixels) -> Pixels:
    """The pictures below their header, and the chart on their right, at the same level."""
    (high, left), right = montage.shape[:2], chart.shape[1]
    top, edge = _MARGIN // 2 + _HEADER, 2 * _MARGIN + left
    canvas = np.full((top + max(high, len(chart)) + _MARGIN, edge + right + _MARGIN, 3), _GROUND, np.uint8)
    canvas[top - _HEADER : top, _MARGIN : _MARGIN + left] = header
    canvas[top : top + high, _MARGIN : _MARGIN + left] = montage
    canvas[top : top + len(chart), edge : edge + right] = chart
    return canvas


# ---- the curves


class _Plot:
    """Where a step and a value between 0 and 1 lie in the chart."""

    def __init__(self, steps: int, height: int) -> None:
        self.left, self.right = 14 * _FINE, (_CHART - 38) * _FINE
        self.top, self.bottom = 66 * _FINE, (height - 16) * _FINE
        self.steps = max(1, steps)

    def at(self, step: float, share: float) -> tuple[float, float]:
        x = self.left + (self.right - self.left) * step / self.steps
        return x, self.bottom + (self.top - self.bottom) * min(max(share, 0.0), 1.0)


def _chart(history: History, step: int, height: int) -> Pixels:
    """Loss and accuracy up to a step, on axes that are the same in every frame."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_CHART * _FINE, height * _FINE), _GROUND)
    pencil = ImageDraw.Draw(image)
    plot = _Plot(history.steps, height)
    _axes(pencil, plot)
    most = max([*history.losses, 1e-9])
    losses = [loss / most for loss in history.losses[:step]]
    measured = [(s, share) for s, share in history.accuracies if s <= step]
    _line(pencil, [plot.at(n, v) for n, v in enumerate(losses, 1)], _LOSS_FAINT, 1)
    _line(pencil, [plot.at(n, v) for n, v in enumerate(_smooth(losses), 1)], _LOSS, 2)
    _line(pencil, [plot.at(s, share) for s, share in measured], _ACCURACY, 2)
    _legend(pencil, step, history, measured[-1][1])
    return np.asarray(image.reduce(_FINE))


def _axes(pencil: Pencil, plot: _Plot) -> None:
    pencil.rounded_rectangle((0, 0, _CHART * _FINE - 1, plot.bottom + 16 * _FINE - 1), 8 * _FINE, _PANEL)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = plot.at(plot.steps, share)
        pencil.line((plot.left, y, x, y), _GRID, _FINE)
        pencil.text((x + 5 * _FINE, y), f"{share:.0%}", _FAINT, _font(10 * _FINE), anchor="lm")


def _line(pencil: Pencil, points: list[tuple[float, float]], colour: Color, width: int) -> None:
    if len(points) > 1:
        pencil.line(points, colour, width * _FINE, joint="curve")


def _smooth(values: Sequence[float], inertia: float = 0.9) -> list[float]:
    """A running mean that gives older values less and less weight, and is right from the first one on."""
    total = weight = 0.0
    result = []
    for value in values:
        total, weight = inertia * total + value, inertia * weight + 1
        result.append(total / weight)
    return result


def _legend(pencil: Pencil, step: int, history: History, accuracy: float) -> None:
    loss = _smooth(history.losses[:step])[-1] if step else None
    left = 14 * _FINE
    pencil.text((left, 12 * _FINE), f"step {step} of {history.steps}", _TEXT, _font(13 * _FINE))
    first = "loss" if loss is None else f"loss {loss:.2f}"
    for x, text, colour in (
        (left, first, _LOSS),
        (left + 88 * _FINE, f"validation accuracy {accuracy:.0%}", _ACCURACY),
    ):
        pencil.ellipse((x, 40 * _FINE, x + 7 * _FINE, 47 * _FINE), colour)
        pencil.text((x + 12 * _FINE, 43.5 * _FINE), text, _TEXT, _font(11 * _FINE), anchor="lm")
