"""A picture as the network saw it at chosen moments of the training, side by side: 5 epochs against 50."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from camcore.errors import InputError, suggest
from camcore.files import save_picture
from camcore.films.charts import loss_plot, share_text
from camcore.films.montage import enlarged, framed
from camcore.films.theme import BAD, FAINT, GOOD, GRID, RGB, Color, blank, class_name, draw_text, image_of, text_width
from camcore.recording.recording import Recording
from camcore.render import at_least, overlay

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil

__all__ = ["filmstrip", "save_filmstrip"]

_FRAMES = 6  # where none are asked for
_FORMS = 3  # of the lines above a moment, ever shorter
_WIDEST, _LEAST_TILE, _MOST_TILE = 1600, 110, 220


def filmstrip(
    recording: Recording,
    *,
    picture: int | str | Sequence[int | str] = 0,
    steps: Sequence[int] | None = None,
    epochs: Sequence[float] | None = None,
    tile: int | None = None,
    cmap: str = "jet",
    alpha: float | Literal["heat"] = "heat",
) -> RGB:
    """Draw a picture, and beside it its map at chosen moments of the training; a row for each picture.

    Above each moment stand its epoch, step and loss, or that it is before the training; below each map the probability
    of the class whose map it is, and what the picture was taken for where that is another.

    Parameters
    ----------
    recording : Recording
    picture : int or str, or several
        Number or name.
    steps : sequence of int, optional
        The nearest frame to each is shown. By default six frames, evenly chosen.
    epochs : sequence of float, optional
        Instead of steps. Of each, the frame nearest to its end: to the last step at which it was logged as ``epoch``.
    tile : int, optional
        Longest side of a picture, in pixels. By default 220, less where the strip would be wider than 1600.
    cmap, alpha
        See `camcore.render.overlay`.

    Returns
    -------
    (height, width, 3) uint8 ndarray

    Raises
    ------
    InputError
        For a picture, step or epoch that was not recorded; the text says which were.
    """
    wanted = [picture] if np.ndim(picture) == 0 else picture
    rows = _pictures(recording, cast("Sequence[int | str]", wanted))
    chosen = recording.frames(_moments(recording, steps, epochs)).pick(rows)
    if tile is None:
        tile = min(max(_WIDEST // (1 + len(chosen)), _LEAST_TILE), _MOST_TILE)
    return _Strip(chosen, at_least(32, "tile", tile)).draw(cmap=cmap, alpha=alpha)


def save_filmstrip(path: str | PathLike[str], recording: Recording, **options: Any) -> None:
    """Write `filmstrip` to a picture file; for errors see also `camcore.files.save_picture`."""
    save_picture(path, filmstrip(recording, **options))


def _pictures(recording: Recording, wanted: Sequence[int | str]) -> list[int]:
    count = len(recording.classes)
    if len(wanted) == 0:
        raise InputError(f"no picture is asked for; expected numbers from 0 to {count - 1}, or names")
    return [_picture(recording, item, count) for item in wanted]


def _picture(recording: Recording, wanted: int | str, count: int) -> int:
    if isinstance(wanted, str):
        if wanted not in recording.names:
            raise InputError(f"picture {wanted!r} is not in the recording. {suggest(wanted, recording.names)}")
        return recording.names.index(wanted)
    if not -count <= wanted < count:
        raise InputError(f"picture {wanted} is not in the recording; it has {count}: 0 to {count - 1}")
    return int(wanted)


def _moments(recording: Recording, steps: Sequence[int] | None, epochs: Sequence[float] | None) -> list[int]:
    """The numbers of the frames that are shown, each once."""
    if steps is not None and epochs is not None:
        raise InputError("both steps and epochs are given; expected one of them")
    if steps is None and epochs is None:
        return np.unique(np.rint(np.linspace(0, len(recording) - 1, _FRAMES)).astype(int)).tolist()
    found = [_frame_at(recording, step) for step in steps or ()] + [_frame_of(recording, e) for e in epochs or ()]
    if not found:
        raise InputError(f"no moment is asked for; expected steps or epochs: {_recorded(recording)}")
    return list(dict.fromkeys(found))


def _frame_at(recording: Recording, step: int) -> int:
    if not int(recording.steps[0]) <= step <= recording.total:
        raise InputError(f"step {step} is not in the recording: {_recorded(recording)}")
    return int(np.abs(recording.steps - step).argmin())


def _frame_of(recording: Recording, epoch: float) -> int:
    """The frame nearest to the end of an epoch; one that is within it, if there is any."""
    curve = recording.curves.get("epoch")
    if curve is None or not np.isfinite(curve.values).any():
        raise InputError(f"no curve 'epoch' was logged, so epoch {epoch:g} cannot be found; give steps instead")
    low, high = float(np.nanmin(curve.values)), float(np.nanmax(curve.values))
    if not min(0, low) <= epoch <= math.ceil(high):
        raise InputError(f"epoch {epoch:g} is not in the recording: it has epochs {low:g} to {high:g}")
    before = np.flatnonzero(curve.values <= epoch)
    far = np.abs(recording.steps - (curve.steps[before[-1]] if len(before) else recording.steps[0]))
    within = np.array([curve.at(step) == epoch for step in recording.steps.tolist()])
    return int(np.where(within | ~within.any(), far, np.inf).argmin())


def _recorded(recording: Recording) -> str:
    steps = recording.steps.tolist()
    shown = [str(step) for step in (steps if len(steps) <= 8 else [*steps[:4], *steps[-2:]])]
    if len(steps) > 8:
        shown.insert(4, "...")
    return f"it has frames of the steps {', '.join(shown)}"


def _moment(recording: Recording, step: int) -> tuple[str, str, list[str]]:
    """The epoch, where epochs were logged, which is 0 before the first; the step; the loss in forms ever shorter."""
    epoch, loss = recording.curves.get("epoch"), loss_plot(recording)
    known = epoch is not None and len(epoch.steps) > 0
    number = math.nan if epoch is None or not known else epoch.at(step) if step >= epoch.steps[0] else 0.0
    told = [""]
    if loss is not None and step >= loss.lines[0].curve.steps[0]:
        line, value = loss.lines[0], loss.lines[0].latest(step)[0]
        told = [f"{line.name} {value}", f"loss {value}"]
    return (f"epoch {number:.4g}" if math.isfinite(number) else ""), f"step {step}", told


def _heading(moment: tuple[str, str, list[str]], shared: bool, form: int) -> tuple[str, str]:
    """A title, and a line below; a higher ``form`` is shorter.

    ``shared`` is whether several frames have the same epoch, so that the step tells them apart.
    """
    epoch, step, losses = moment
    loss = losses[min(form, len(losses) - 1)]
    if step == "step 0":
        return "before training", loss
    title = [epoch, step] if shared and form < _FORMS - 1 else [step] if shared else [epoch or step]
    below = [word for word in (epoch if shared else "", step, loss) if word and word not in title]
    return " · ".join(filter(None, title)), " · ".join(below)


class _Strip:
    """The frames of a recording side by side, all its pictures one below the other."""

    def __init__(self, recording: Recording, tile: int) -> None:
        self._recording = recording
        self._font = min(max(10, round(tile / 15)), 16)
        self._small = max(9, round(0.87 * self._font))
        self._border = max(2, round(tile / 66))
        self._margin, self._gap, self._head = self._font, round(0.8 * self._font), round(3.2 * self._font)
        high, wide = recording.pictures.shape[1:3]
        inner = (tile - 2 * self._border) / max(high, wide)
        self._inner = max(1, round(high * inner)), max(1, round(wide * inner))
        self._high, self._wide = (side + 2 * self._border for side in self._inner)
        # Narrow pictures move apart as far as their captions need it.
        self._across = max(self._wide, 9 * self._font) + self._gap
        self._down = self._high + round(2 * self._font) + self._gap
        self._title = round(1.15 * self._font)
        self._heads = self._headings()

    def draw(self, **style: Any) -> RGB:
        from PIL import ImageDraw

        frames, pictures = self._recording.maps.shape[:2]
        width = 2 * self._margin + (1 + frames) * self._across - self._gap
        image = blank(width, self._margin + self._head + pictures * self._down)
        pencil = ImageDraw.Draw(image)
        small = [enlarged(picture, *self._inner) for picture in self._recording.pictures]
        for row, picture in enumerate(small):
            self._put(image, framed(picture, GRID, self._border), 0, row)
            self._write_name(pencil, row)
        for frame in range(frames):
            self._write_head(pencil, frame)
            for row, heat in enumerate(self._recording.heatmaps(frame, self._inner)):
                color = GOOD if self._recording.right[frame, row] else BAD
                drawn = overlay(small[row], heat, **style)
                self._put(image, framed(drawn, color, self._border), 1 + frame, row)
                self._write_caption(pencil, frame, row, color)
        return np.asarray(image)

    def _corner(self, column: int, row: int) -> tuple[int, int]:
        """Left and top of a tile, which stands in the middle of its column."""
        left = self._margin + column * self._across + (self._across - self._gap - self._wide) // 2
        return left, self._margin + self._head + row * self._down

    def _put(self, image: PilImage, tile: RGB, column: int, row: int) -> None:
        image.paste(image_of(tile), self._corner(column, row))

    def _span(self, column: int) -> tuple[float, float]:
        """Where the text of a column begins and ends."""
        left = self._margin + column * self._across
        return left + self._border, left + self._across - self._gap - self._border

    def _write_head(self, pencil: Pencil, frame: int) -> None:
        left, right = self._span(1 + frame)
        title, below = self._heads[frame]
        at, size = (left, self._margin + 0.6 * self._font), self._title
        draw_text(pencil, at, title, size=size, width=right - left)
        at = left, self._margin + 2.1 * self._font
        draw_text(pencil, at, below, size=self._small, color=FAINT, width=right - left)

    def _headings(self) -> list[tuple[str, str]]:
        """Of each frame two lines, written alike for all: as much as fits above the narrowest tile."""
        moments = [_moment(self._recording, step) for step in self._recording.steps.tolist()]
        named = [epoch for epoch, _, _ in moments if epoch]
        shared = len(set(named)) < len(named)
        left, right = self._span(0)
        choices = [[_heading(moment, shared, form) for moment in moments] for form in range(_FORMS)]
        wide = [max(self._wide_of(heading) for heading in headings) for headings in choices]
        return choices[next((n for n, width in enumerate(wide) if width <= right - left), -1)]

    def _wide_of(self, heading: tuple[str, str]) -> float:
        return max(text_width(heading[0], self._title), text_width(heading[1], self._small))

    def _write_name(self, pencil: Pencil, row: int) -> None:
        (left, right), y = self._span(0), self._corner(0, row)[1] + self._high + 0.95 * self._font
        name = class_name(self._recording, int(self._recording.classes[row]))
        draw_text(pencil, (left, y), name, size=self._font, width=right - left)

    def _write_caption(self, pencil: Pencil, frame: int, row: int, color: Color) -> None:
        (left, right), y = self._span(1 + frame), self._corner(0, row)[1] + self._high + 0.95 * self._font
        chance, room = float(self._recording.probabilities[frame, row]), right - left
        if math.isfinite(chance):
            draw_text(pencil, (right, y), share_text(chance), size=self._font, color=color, anchor="rm")
            room -= text_width(share_text(chance), self._font) + 0.4 * self._font
        best = int(self._recording.best[frame, row])
        if best != self._recording.classes[row]:
            name = class_name(self._recording, best)
            text = f"taken for {name}"
            text = text if text_width(text, self._small) <= room else name
            draw_text(pencil, (left, y), text, size=self._small, color=FAINT, width=room)
