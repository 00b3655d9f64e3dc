"""A chart that grows with the training: lines on axes that stay, and a legend with the latest values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camcore.films.axes import Axis, step_axis
from camcore.films.lines import decimated
from camcore.films.theme import (
    BAD,
    FAINT,
    FINE,
    GRID,
    PANEL,
    RGB,
    TEXT,
    Color,
    blank,
    blend,
    draw_dot,
    draw_line,
    draw_text,
    text_width,
)
from camcore.recording import Curve

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil

__all__ = ["Chart", "Line", "Plot"]

Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a chart; its name and its latest value stand in the legend.

    Attributes
    ----------
    name : str
    curve : Curve
        Values that are not finite are left out; where one is the latest, the legend says so.
    color : (R, G, B)
    text : callable
        A value as the legend shows it.
    smooth : Curve or None
        Drawn instead of the curve, which then stands faintly behind.
    level : float or None
        A dashed line: where the curve would be by chance. It has an entry in the legend of its own.
    level_name : str
        What that entry says.
    marks : bool
        Put a red tick at each step whose value is not finite.
    """

    name: str
    curve: Curve
    color: Color
    text: Callable[[float], str]
    smooth: Curve | None = None
    level: float | None = None
    level_name: str = "by chance"
    marks: bool = False

    @property
    def main(self) -> Curve:
        """What is drawn in full colour."""
        return self.curve if self.smooth is None else self.smooth

    @property
    def known_level(self) -> bool:
        """Whether there is a dashed line."""
        return self.level is not None and math.isfinite(self.level)

    def latest(self, step: int) -> tuple[str, bool]:
        """What the legend says at a step, and whether it is good news: a number, or nothing yet."""
        if not math.isfinite(raw := self.curve.at(step)):
            started = len(self.curve.steps) > 0 and self.curve.steps[0] <= step
            return (str(raw).replace("nan", "NaN"), False) if started else ("–", True)
        return self.text(self.main.at(step)), True


class Plot(NamedTuple):
    """What a chart shows: at least one line, the axis of the values, the first and the last step, and their unit."""

    lines: Sequence[Line]
    axis: Axis
    steps: tuple[int, int]
    unit: str = "steps"


class Chart:
    """A plot on axes that stay the same however much of the lines is drawn.

    An arrow with the value marks the highest and the lowest point of a line that is beyond the axis.

    Parameters
    ----------
    plot : Plot
    size : (width, height)
        In pixels.
    font : int
        Size of the letters in pixels; margins and the width of lines follow it.
    """

    def __init__(self, plot: Plot, size: tuple[int, int], *, font: int = 12) -> None:
        lines, axis, steps, self._unit = plot
        self._lines, self._axis, self.size, self._font = lines, axis, size, font
        self._small = max(8, round(0.85 * font))
        self._levels = list({line.level: line for line in reversed(lines) if line.known_level}.values())
        names = [line.name for line in lines] + [line.level_name for line in self._levels]
        self._places = _legend_places(names, size[0], font)
        # The same room whatever stands there: charts side by side have the same ticks.
        texts = [label for _, label in axis.ticks] + ["100 %", self._unit]
        labels = max(text_width(text, self._small) for text in texts)
        self._left, self._right = 1.2 * font, size[0] - labels - 1.7 * font
        self._top, self._bottom = self._places[-1][1] + 1.7 * font, size[1] - 2.2 * font
        room = int((self._bottom - self._top) / (1.7 * font))
        self._ticks = axis.ticks[:: max(1, math.ceil((len(axis.ticks) - 1) / max(room, 1)))]
        self._steps = step_axis(*steps, most=max(2, round((self._right - self._left) / (4.5 * font))))
        self._thin = {id(curve): self._thinned(curve) for line in lines for curve in (line.curve, line.main)}
        self._ground = self._background()

    def draw(self, step: int | None = None) -> RGB:
        """(height, width, 3) pixels: the chart up to a step, or all of it."""
        from PIL import ImageDraw

        until = int(self._steps.high) if step is None else step
        fine = self._ground.copy()
        self._draw_lines(ImageDraw.Draw(fine), until)
        image = fine.reduce(FINE)
        pencil = ImageDraw.Draw(image)
        self._label_axes(pencil)
        self._write_beyond(pencil, until)
        self._draw_legend(pencil, until)
        return np.asarray(image)

    def _thinned(self, curve: Curve) -> Curve:
        known = np.isfinite(curve.values)
        columns = round((self._right - self._left) * FINE / 2)
        return decimated(Curve(curve.steps[known], curve.values[known]), self._steps.low, self._steps.high, columns)

    def _background(self) -> PilImage:
        """What is the same at every step, ``FINE`` times as large."""
        from PIL import ImageDraw

        (width, height), unit = self.size, self._font * FINE / 12
        image = blank(width * FINE, height * FINE)
        pencil = ImageDraw.Draw(image)
        pencil.rounded_rectangle((0, 0, width * FINE - 1, height * FINE - 1), 8 * unit, PANEL)
        for value, _ in self._ticks:
            y = self._y(value) * FINE
            pencil.line((self._left * FINE, y, self._right * FINE, y), GRID, max(1, round(0.8 * unit)))
        for line, (x, y) in zip(self._lines, self._places, strict=False):
            draw_dot(pencil, (x * FINE + 4 * unit, y * FINE), 4 * unit, line.color)
        for line, (x, y) in zip(self._levels, self._places[len(self._lines) :], strict=True):
            color = blend(line.color, PANEL, 0.6)
            self._dash(pencil, (self._left, self._right), float(self._y(line.level or 0)), color)
            self._dash(pencil, (x - 0.35 * self._font, x + 0.8 * self._font), y, color)
        return image

    def _dash(self, pencil: Pencil, span: tuple[float, float], y: float, color: Color) -> None:
        dash = 0.4 * self._font * FINE
        for x in np.arange(span[0] * FINE, span[1] * FINE - 0.99 * dash, 2 * dash).tolist():
            pencil.line((x, y * FINE, x + dash, y * FINE), color, max(1, round(self._font * FINE / 10)))

    def _x(self, steps: NDArray[Any] | float) -> Real:
        return self._left + (self._right - self._left) * self._steps.place(steps)

    def _y(self, values: NDArray[Any] | float) -> Any:
        return self._bottom + (self._top - self._bottom) * self._axis.place(values)

    def _points(self, curve: Curve, until: int) -> Real:
        thin = self._thin[id(curve)]
        seen = int(np.searchsorted(thin.steps, until, side="right"))
        return np.stack([self._x(thin.steps[:seen]), self._y(thin.values[:seen])], axis=1) * FINE

    def _draw_lines(self, pencil: Pencil, until: int) -> None:
        unit = self._font * FINE / 12
        for line in self._lines:
            if line.smooth is not None:
                draw_line(pencil, self._points(line.curve, until), blend(line.color, PANEL, 0.35), unit)
            if line.marks:
                self._mark_lost(pencil, line.curve, until)
            for x, y, up, _ in self._beyond(line, until):
                tip, base, half = y * FINE, (y + 0.7 * up * self._font) * FINE, 0.4 * self._font * FINE
                pencil.polygon((x * FINE, tip, x * FINE - half, base, x * FINE + half, base), line.color)
        for line in self._lines:
            points = self._points(line.main, until)
            draw_line(pencil, points, line.color, 2 * unit)
            if len(points):
                draw_dot(pencil, points[-1], 5.2 * unit, PANEL)
                draw_dot(pencil, points[-1], 3.6 * unit, line.color)

    def _beyond(self, line: Line, until: int) -> list[tuple[float, float, int, str]]:
        """Where an arrow points at a value beyond the axis: its tip, up (1) or down (-1), and the value."""
        found = [(step, value) for step, value in self._axis.beyond(line.curve) if step <= until]
        ups = [1 if value > self._axis.low else -1 for _, value in found]
        ends = [self._top - 0.4 * self._font if up > 0 else self._bottom + 0.4 * self._font for up in ups]
        return [
            (float(self._x(step)), y, up, line.text(value))
            for (step, value), y, up in zip(found, ends, ups, strict=True)
        ]

    def _write_beyond(self, pencil: Pencil, until: int) -> None:
        for line in self._lines:
            for x, y, up, text in self._beyond(line, until):
                late = x + 0.7 * self._font + text_width(text, self._small) > self._right
                at = x + (-0.7 if late else 0.7) * self._font, y + 0.35 * up * self._font
                draw_text(pencil, at, text, size=self._small, color=line.color, anchor="rm" if late else "lm")

    def _mark_lost(self, pencil: Pencil, curve: Curve, until: int) -> None:
        """Ticks on the axis; at most one a pixel."""
        lost = curve.steps[~np.isfinite(curve.values) & (curve.steps <= until)]
        bottom, high, wide = self._bottom * FINE, 0.5 * self._font * FINE, max(1, self._font // 12) * FINE
        for x in np.unique(np.rint(self._x(lost))).tolist():
            pencil.rectangle((x * FINE, bottom - high, x * FINE + wide - 1, bottom), BAD)

    def _label_axes(self, pencil: Pencil) -> None:
        for value, label in self._ticks:
            at = self._right + 0.6 * self._font, float(self._y(value))
            draw_text(pencil, at, label, size=self._small, color=FAINT)
        for value, label in self._steps.ticks:
            half = text_width(label, self._small) / 2
            x = min(max(float(self._x(value)), self._left + half), self._right - half)
            draw_text(pencil, (x, self._bottom + 1.1 * self._font), label, size=self._small, color=FAINT, anchor="mm")
        at = self._right + 0.6 * self._font, self._bottom + 1.1 * self._font
        draw_text(pencil, at, self._unit, size=self._small, color=FAINT)

    def _draw_legend(self, pencil: Pencil, until: int) -> None:
        font = self._font
        entries = [(line.name, *line.latest(until)) for line in self._lines]
        entries += [(line.level_name, line.text(line.level or 0), True) for line in self._levels]
        for (name, text, good), (x, y) in zip(entries, self._places, strict=True):
            most = self.size[0] - x - 2.4 * font - _value_width(font)
            draw_text(pencil, (x + 1.1 * font, y), name, size=font, color=FAINT, width=most)
            after = x + 1.55 * font + min(most, text_width(name, font))
            draw_text(pencil, (after, y), text, size=font, color=TEXT if good else BAD)


def _legend_places(names: Sequence[str], width: int, font: int) -> list[tuple[float, float]]:
    """Where each entry begins: as many side by side as there is room for, with room for the widest value."""
    places: list[tuple[float, float]] = []
    x, y = 1.2 * font, 1.6 * font
    for name in names:
        wide = 1.55 * font + text_width(name, font) + _value_width(font)
        if places and x + wide > width - 0.8 * font:
            x, y = 1.2 * font, y + 1.6 * font
        places.append((x, y))
        x += wide + font
    return places


def _value_width(font: int) -> float:
    return max(text_width(widest, font) for widest in ("100 %", "0.00"))
