"""Overlays of many pictures side by side, each in a frame that says whether the network has it right."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.films.charts import share_text
from camcore.films.theme import (
    BAD,
    FAINT,
    FINE,
    GOOD,
    GROUND,
    RGB,
    Color,
    blank,
    class_name,
    draw_text,
    image_of,
    text_width,
)
from camcore.recording.recording import Recording
from camcore.render import at_least, overlay

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["Layout", "Montage", "best_layout", "enlarged", "framed"]

Shares = NDArray[np.float32]

_MOST = 24  # pictures
_TINY = 96  # pictures up to this side are enlarged to pixels that can be seen


class Layout(NamedTuple):
    """Tiles of ``width`` x ``height`` pixels, with a caption below each, ``gap`` pixels apart."""

    columns: int
    rows: int
    width: int
    height: int
    caption: int
    gap: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of all of them."""
        across = self.columns * (self.width + self.gap) - self.gap
        return across, self.rows * (self.height + self.caption + self.gap) - self.gap

    def place(self, number: int) -> tuple[int, int]:
        """Left and top of a tile."""
        row, column = divmod(number, self.columns)
        return column * (self.width + self.gap), row * (self.height + self.caption + self.gap)


def best_layout(
    count: int, aspect: float, box: tuple[int, int], *, caption: int, gap: int, columns: int | None = None
) -> Layout:
    """The layout of ``count`` tiles in a box (width, height) that makes them largest; ``aspect`` is height / width.

    Examples
    --------
    >>> best_layout(12, 1.0, (560, 440), caption=20, gap=8)
    Layout(columns=4, rows=3, width=121, height=121, caption=20, gap=8)
    """
    choices = range(1, count + 1) if columns is None else [min(at_least(1, "columns", columns), count)]
    layouts = [_layout(count, aspect, box, caption, gap, choice) for choice in choices]
    return max(layouts, key=lambda layout: (layout.width, -layout.columns * layout.rows))


def _layout(count: int, aspect: float, box: tuple[int, int], caption: int, gap: int, columns: int) -> Layout:
    rows = math.ceil(count / columns)
    high = (box[1] + gap) / rows - gap - caption
    width = max(8.0, min((box[0] + gap) / columns - gap, high / aspect))
    return Layout(columns, rows, int(width), max(8, int(width * aspect)), caption, gap)


class Montage:
    """The pictures of a recording, drawn frame by frame.

    Parameters
    ----------
    recording : Recording
        Of more than 24 pictures, 24 are taken, evenly chosen.
    box : (width, height)
        What it must fit into, in pixels.
    font : int
        Size of the letters in pixels.
    columns : int, optional
        By default so many that the pictures are as large as can be.
    cmap, alpha
        See `camcore.render.overlay`.

    Raises
    ------
    InputError
        For a recording without frames or pictures, and for an option out of range.
    """

    def __init__(
        self,
        recording: Recording,
        box: tuple[int, int],
        *,
        font: int = 12,
        columns: int | None = None,
        cmap: str = "jet",
        alpha: float | Literal["heat"] = "heat",
    ) -> None:
        self._recording, self._cmap, self._alpha = _few(recording), cmap, alpha
        self._font = max(8, round(0.85 * font))
        count, high, wide = self._recording.pictures.shape[:3]
        self.layout = best_layout(
            count, high / wide, box, caption=round(1.65 * font), gap=max(3, round(0.6 * font)), columns=columns
        )
        self._border = max(2, round(font / 4))
        self._inner = self.layout.height - 2 * self._border, self.layout.width - 2 * self._border
        self._small = [enlarged(picture, *self._inner) for picture in self._recording.pictures]
        self._ground = self._named()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.layout.size

    def draw(self, frame: int) -> RGB:
        """(height, width, 3) pixels of a frame."""
        from PIL import ImageDraw

        image = self._ground.copy()
        pencil = ImageDraw.Draw(image)
        right = self._recording.right[frame]
        heats = self._recording.heatmaps(frame, self._inner)
        for n, (picture, heat) in enumerate(zip(self._small, heats, strict=True)):
            color = GOOD if right[n] else BAD
            drawn = overlay(picture, heat, cmap=self._cmap, alpha=self._alpha)
            image.paste(image_of(framed(drawn, color, self._border)), self.layout.place(n))
            chance = float(self._recording.probabilities[frame, n])
            if math.isfinite(chance):
                draw_text(pencil, self._caption(n)[1], share_text(chance), size=self._font, color=color, anchor="rm")
        return np.asarray(image)

    def _named(self) -> PilImage:
        """The names below the tiles; they do not change."""
        from PIL import ImageDraw

        image = blank(*self.size)
        pencil = ImageDraw.Draw(image)
        room = self.layout.width - 2 * self._border - text_width("100 %", self._font) - 0.3 * self._font
        for n, label in enumerate(self._recording.classes.tolist()):
            if room >= 2.5 * self._font:
                name = class_name(self._recording, label)
                draw_text(pencil, self._caption(n)[0], name, size=self._font, color=FAINT, width=room)
        return image

    def _caption(self, number: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the name begins and where the number ends."""
        left, top = self.layout.place(number)
        y = top + self.layout.height + self.layout.caption / 2
        return (left + self._border, y), (left + self.layout.width - self._border, y)


def _few(recording: Recording) -> Recording:
    if len(recording) == 0 or len(recording.classes) == 0 or recording.maps.ndim != 4:
        came = f"maps of shape {recording.maps.shape}"
        raise InputError(f"the recording has {came}; expected (frames, pictures, h, w), at least one of each")
    count = len(recording.classes)
    if count <= _MOST:
        return recording
    return recording.pick(np.unique(np.rint(np.linspace(0, count - 1, _MOST)).astype(int)).tolist())


def enlarged(picture: RGB, height: int, width: int) -> RGB:
    """A picture scaled to a size; enlarged pixels of a tiny one stay pixels, as far as the size allows."""
    from PIL.Image import Resampling

    image = image_of(picture)
    high, wide = picture.shape[:2]
    if max(high, wide) <= _TINY and height > high and width > wide:
        image = image.resize((wide * math.ceil(width / wide), high * math.ceil(height / high)), Resampling.NEAREST)
    return np.asarray(image.resize((width, height), Resampling.LANCZOS))


def framed(picture: RGB, color: Color, border: int) -> RGB:
    """A picture with a border around it, the corners rounded; (height + 2 border, width + 2 border, 3)."""
    inside, around = _frame_shares(*picture.shape[:2], border)
    padded = np.pad(picture, ((border, border), (border, border), (0, 0)))
    drawn = (
        inside * padded + around * np.array(color, np.float32) + (1 - inside - around) * np.array(GROUND, np.float32)
    )
    return (drawn + 0.5).astype(np.uint8)


@lru_cache(maxsize=16)
def _frame_shares(height: int, width: int, border: int) -> tuple[Shares, Shares]:
    """How much of each pixel is picture, and how much is frame."""
    from PIL import Image, ImageDraw

    size, radius = (width + 2 * border, height + 2 * border), 2.2 * border
    shares: list[Shares] = []
    for edge in (border, 0):
        large = Image.new("L", (size[0] * FINE, size[1] * FINE), 0)
        corners = (edge * FINE, edge * FINE, (size[0] - edge) * FINE - 1, (size[1] - edge) * FINE - 1)
        ImageDraw.Draw(large).rounded_rectangle(corners, (radius - edge) * FINE, 255)
        shares.append(np.asarray(large.reduce(FINE), np.float32)[..., None] / np.float32(255))
    return shares[0], shares[1] - shares[0]
