"""What all films and charts share: colours on a dark ground, letters, and lines with smooth edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore.labels import short_name
from camcore.lettering import drawn_name, narrowed, typeset
from camcore.recording.recording import Recording

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "BAD",
    "FAINT",
    "FINE",
    "GOOD",
    "GRID",
    "GROUND",
    "LOSSES",
    "PANEL",
    "RGB",
    "SHARES",
    "TEXT",
    "Color",
    "blank",
    "blend",
    "class_name",
    "draw_dot",
    "draw_line",
    "draw_text",
    "font_of",
    "image_of",
    "text_width",
]

RGB = NDArray[np.uint8]
Color = tuple[int, int, int]

GROUND, PANEL, GRID = (13, 17, 24), (22, 28, 38), (45, 54, 68)
TEXT, FAINT = (231, 236, 243), (141, 153, 172)
GOOD, BAD = (52, 211, 120), (248, 82, 96)
LOSSES = ((251, 146, 60), (244, 114, 182))
SHARES = ((56, 189, 248), (192, 132, 252), (250, 204, 21), (45, 212, 191), (244, 114, 182), (163, 230, 53))

FINE = 3  # lines are drawn this much larger and reduced: Pillow's have no smooth edges


def blank(width: int, height: int, color: Color = GROUND) -> PilImage:
    """An RGB image of one colour."""
    from PIL import Image

    return Image.new("RGB", (width, height), color)


def image_of(pixels: RGB) -> PilImage:
    """(H, W, 3) pixels as an image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def blend(color: Color, ground: Color, share: float) -> Color:
    """So much of a colour on a ground."""
    red, green, blue = (round(share * c + (1 - share) * g) for c, g in zip(color, ground, strict=True))
    return red, green, blue


@lru_cache(maxsize=512)
def font_of(text: str, size: int) -> tuple[FreeTypeFont, str]:
    """A font that has the letters, and the text as that font draws it: one line, without what cannot be printed."""
    font, lines = typeset([[text]], size)
    return font, lines[0][0]


def class_name(recording: Recording, index: int) -> str:
    """The name of a class, or its number where no font here has the letters."""
    return _drawn_name(short_name(recording.label(index)), index)


_drawn_name = lru_cache(maxsize=512)(drawn_name)


def text_width(text: str, size: int) -> float:
    """In pixels."""
    font, clean = font_of(text, size)
    return font.getlength(clean)


def draw_text(
    pencil: Pencil,
    at: tuple[float, float],
    text: str,
    *,
    size: int,
    color: Color = TEXT,
    anchor: str = "lm",
    width: float | None = None,
) -> None:
    """Write one line, shortened to ``width``; ``anchor`` as in Pillow."""
    font, clean = font_of(text, size)
    pencil.text(at, clean if width is None else narrowed(clean, width, font), color, font, anchor=anchor)


def draw_line(pencil: Pencil, points: NDArray[np.floating[Any]], color: Color, width: float) -> None:
    """Draw (n, 2) points as a line with round joints and ends; one point is a dot."""
    if len(points) > 1:
        pencil.line([(x, y) for x, y in points.tolist()], color, max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]) if len(points) else ():
        draw_dot(pencil, (float(x), float(y)), width / 2, color)


def draw_dot(pencil: Pencil, at: Sequence[float], radius: float, color: Color) -> None:
    """Draw a filled circle."""
    x, y = at
    pencil.ellipse((x - radius, y - radius, x + radius, y + radius), color)
