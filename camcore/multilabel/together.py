"""The heat of several classes on one picture, each in a colour of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camcore.colormaps import unit_heat
from camcore.errors import InputError
from camcore.lettering import narrowed, typeset
from camcore.render import LUMA, RGB, Color, as_picture
from camcore.resize import resize

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil
    from PIL.ImageFont import FreeTypeFont

__all__ = ["PALETTE", "ClassColors", "blend", "legend"]

RGBTuple = tuple[int, int, int]

# Those of M. Okabe and K. Ito, "Color universal design" (2008), which people who lack a kind of cone tell apart too.
PALETTE: tuple[RGBTuple, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
)
_TONES = (0.0, -0.45, 0.55)  # further rounds of the palette, towards black and towards white
_GREY, _DIM = 0.8, 0.8  # how much of the picture's colour goes, and how much of its brightness stays
_CLEAR = 4  # the power of the heats by which colours mix: the stronger one wins
_MIDDLE = 0.179  # a luminance on which white and black letters are seen equally well
_PAPER, _DARK, _LIGHT = (255, 255, 255), (25, 25, 25), (255, 255, 255)


class ClassColors:
    """Colours that stay with their classes from picture to picture, and are all different in each."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}

    def of(self, classes: Sequence[int]) -> list[RGBTuple]:
        """A colour for each class of one picture: the one it had before, unless another one here has taken that.

        Examples
        --------
        >>> colors = ClassColors()
        >>> colors.of([7, 3]) == colors.of([3, 7])[::-1]
        True
        """
        taken: list[int] = []
        for c in classes:
            place = self._held.get(c, -1)
            taken.append(self._free(taken) if place < 0 or place in taken else place)
            self._held.setdefault(c, taken[-1])
        return [_tone(place) for place in taken]

    def _free(self, taken: Sequence[int]) -> int:
        """The first place that no class holds; else that none of this picture has taken."""
        free = [place for place in range(len(PALETTE)) if place not in self._held.values()]
        return next(place for place in chain(free, count()) if place not in taken)


def _tone(place: int) -> RGBTuple:
    base, tone = PALETTE[place % len(PALETTE)], _TONES[place // len(PALETTE) % len(_TONES)]
    red, green, blue = (round(v + (255 - v) * tone if tone > 0 else v * (1 + tone)) for v in base)
    return red, green, blue


def blend(
    picture: ArrayLike,
    heats: ArrayLike,
    colors: Sequence[Color],
    *,
    alpha: float | Literal["heat"] = 0.85,
    outline: float | None = 0.5,
) -> RGB:
    """Lay the heat of several classes over a picture, which is dimmed and nearly grey, so that colours mean classes.

    Parameters
    ----------
    picture : (H, W[, C]) array_like
        See `camcore.render.as_picture`.
    heats : (T, h, w) array_like
        In [0, 1], of any size: they are resized to the picture. Values outside are clamped, NaN is 0.
    colors : sequence of T (R, G, B)
    alpha : float or "heat"
        The opacity where the heat is 1, in proportion to which it falls; ``"heat"`` is 1. Where heats overlap, the
        stronger one has its colour.
    outline : float, optional
        Draw a line, in the colour of the class, around where its heat reaches this; none where None.

    Returns
    -------
    (H, W, 3) uint8 ndarray

    Raises
    ------
    InputError
        For an opacity or outline outside [0, 1], heats that are no (T, h, w), or another number of colours.
    """
    picture = as_picture(picture)
    size = picture.shape[:2]
    alpha = 1.0 if alpha == "heat" else alpha
    heats = _checked(heats, colors, alpha, outline)
    canvas = _subdued(picture)
    if not len(heats):
        return _bytes(canvas)
    larger = resize(heats, size).astype(np.float32, copy=False)
    strongest = larger.max(axis=0)
    shares = (larger / np.where(strongest > 0, strongest, 1)) ** _CLEAR
    mixed = (
        np.tensordot(shares, np.asarray(colors, np.float32), (0, 0)) / np.maximum(shares.sum(axis=0), 1e-6)[..., None]
    )
    opacity = (alpha * strongest)[..., None]
    canvas = canvas * (1 - opacity) + mixed * opacity
    if outline is not None:
        for heat, color in zip(larger, colors, strict=True):
            canvas[_edge(heat >= outline, max(2, round(min(size) / 160)))] = color
    return _bytes(canvas)


def _checked(heats: ArrayLike, colors: Sequence[Color], alpha: float, outline: float | None) -> NDArray[np.float32]:
    for name, value in (("alpha", alpha), ("outline", outline)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; expected a number in [0, 1]")
    heats = np.asarray(heats)
    if heats.ndim != 3 or len(heats) != len(colors):
        raise InputError(f"heats have shape {heats.shape} for {len(colors)} colours; expected (T, h, w), T as many")
    return unit_heat(heats)


def _subdued(picture: RGB) -> NDArray[np.float32]:
    plain = picture.astype(np.float32)
    grey = (plain @ LUMA)[..., None]
    return (plain + np.float32(_GREY) * (grey - plain)) * np.float32(_DIM)


def _edge(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The rim of a region, inwards; not along the border of the picture."""
    from scipy import ndimage

    kept: NDArray[np.bool_] = ndimage.binary_erosion(inside, np.ones((3, 3), bool), iterations=width, border_value=1)
    return inside & ~kept


def _bytes(values: NDArray[np.float32]) -> RGB:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def legend(lines: Sequence[str], colors: Sequence[Color], width: int, *, rest: str = "") -> RGB:
    """Names as labels in their colours, in rows, as wide as a picture.

    Parameters
    ----------
    lines : sequence of str
        As ``"dog 0.93"``; what is too long is shortened before its number.
    colors : sequence of (R, G, B)
        One a line.
    width : int
        Pixels.
    rest : str
        What is said behind them without a colour.

    Returns
    -------
    (height, width, 3) uint8 ndarray
        On white; without lines and rest its height is 0.
    """
    from PIL import Image, ImageDraw

    font, (names, others) = typeset([[*lines], [rest] if rest else []], size=min(max(12, round(width / 28)), 20))
    texts = [narrowed(text, width - _inset(font), font) for text in names + others]
    places, height = _rows([font.getlength(text) + _inset(font) for text in texts], font, width)
    image = Image.fromarray(np.full((height, width, 3), _PAPER, np.uint8))
    pencil = ImageDraw.Draw(image)
    for text, place, color in zip(texts, places, [*colors, *(None for _ in others)], strict=True):
        _draw_label(image, pencil, place, text, color, font)
    return np.asarray(image)


def _inset(font: FreeTypeFont) -> int:
    """The space in a label that no letter takes."""
    return round(1.2 * font.size)


def _rows(widths: Sequence[float], font: FreeTypeFont, width: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """(x0, y0, x1, y1) of each label, row by row, and the height of all."""
    high, gap = round(1.7 * font.size), round(0.5 * font.size)
    places, x, y = [], 0, gap
    for wide in map(round, widths):
        if x and x + wide > width:
            x, y = 0, y + high + gap
        places.append((x, y, x + wide, y + high))
        x += wide + gap
    return places, y + high + round(0.2 * font.size) if places else 0


def _draw_label(
    image: PilImage,
    pencil: Pencil,
    place: tuple[int, int, int, int],
    text: str,
    color: Color | None,
    font: FreeTypeFont,
) -> None:
    x0, y0, x1, y1 = place
    if color is not None:
        image.paste(tuple(color), place, _rounded(x1 - x0, y1 - y0))
    ink = _LIGHT if color is not None and _luminance(color) < _MIDDLE else _DARK
    pencil.text(((x0 + x1) / 2, (y0 + y1) / 2), text, ink, font, anchor="mm")


def _luminance(color: Color) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines, 0 to 1."""
    share = np.asarray(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _rounded(width: int, height: int, fine: int = 4) -> PilImage:
    """The opacity of a rectangle with round ends; drawn larger, since Pillow's edges are not smooth."""
    from PIL import Image, ImageDraw

    shape = Image.new("L", (width * fine, height * fine), 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, width * fine - 1, height * fine - 1), height * fine // 3, fill=255)
    return shape.resize((width, height), Image.Resampling.BOX)
