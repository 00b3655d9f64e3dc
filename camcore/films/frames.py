"""A training as a film: the overlays of its pictures beside the curves, step after step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from camcore.films.chart import Chart, Plot
from camcore.films.charts import loss_plot, shares_plot
from camcore.films.montage import Montage
from camcore.films.theme import FAINT, GRID, RGB, blank, draw_text, image_of, text_width
from camcore.recording.recording import Curve, Recording
from camcore.render import at_least

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw as Pencil

__all__ = ["Film", "frames_of"]

_WIDTH = 960  # of a film at which the sizes below are meant, in pixels
_FONT, _LEAST_FONT, _MARGIN, _GAP = 13, 9, 20, 12
_PICTURES, _CHART, _LEAST_HEIGHT = (556, 476), 344, 330


class Film(Sequence[RGB]):
    """The frames of a recording as pictures, each drawn when it is asked for. See `frames_of`."""

    def __init__(
        self,
        recording: Recording,
        *,
        most: int = 120,
        width: int = _WIDTH,
        shares: Sequence[str] | None = None,
        columns: int | None = None,
        cmap: str = "jet",
        alpha: float | Literal["heat"] = "heat",
        title: str | None = None,
        trends: Mapping[str, Curve] | None = None,
    ) -> None:
        self._unit = at_least(_WIDTH // 4, "width", width) / _WIDTH
        self._font, self._margin, self._gap = max(_LEAST_FONT, self._px(_FONT)), self._px(_MARGIN), self._px(_GAP)
        self._shown = recording.thinned(at_least(1, "most", most))
        box = self._px(_PICTURES[0]), self._px(_PICTURES[1])
        self._montage = Montage(self._shown, box, font=self._font, columns=columns, cmap=cmap, alpha=alpha)
        plots = [loss_plot(recording), shares_plot(recording, shares, trends=trends)]
        self._charts = self._sized([plot for plot in plots if plot is not None])
        self._total, self._epoch = recording.total, recording.curves.get("epoch")
        named = f"{recording.method} · {recording.layer}" if recording.layer else recording.method
        self._ground = self._background(named if title is None else title)

    def __len__(self) -> int:
        return len(self._shown)

    @overload
    def __getitem__(self, index: int) -> RGB: ...
    @overload
    def __getitem__(self, index: slice) -> list[RGB]: ...
    def __getitem__(self, index: int | slice) -> RGB | list[RGB]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        return self._draw(range(len(self))[index])

    @property
    def pictures(self) -> tuple[int, int, int, int]:
        """The box (x0, y0, x1, y1) of the overlays in every frame."""
        left, top = self._margin, self._top
        return left, top, left + self._montage.size[0], top + self._montage.size[1]

    @property
    def _top(self) -> int:
        return self._margin + round(2.3 * self._font)

    def _px(self, units: float) -> int:
        return round(units * self._unit)

    def _sized(self, plots: list[Plot]) -> list[Chart]:
        """The charts, one above the other, together as high as the pictures."""
        high = max(self._montage.size[1], self._px(_LEAST_HEIGHT))
        each = (high - (len(plots) - 1) * self._gap) // max(len(plots), 1)
        return [Chart(plot, (self._px(_CHART), each), font=self._font) for plot in plots]

    def _background(self, title: str) -> PilImage:
        from PIL import ImageDraw

        across, high = self._montage.size
        across = max(across, self._px(320))
        if self._charts:
            across += self._margin + self._px(_CHART)
            high = max(high, self._px(_LEAST_HEIGHT))
        image = blank(across + 2 * self._margin, self._top + high + self._margin)
        at = image.width - self._margin, self._margin + 0.4 * self._font
        draw_text(ImageDraw.Draw(image), at, title, size=self._font, color=FAINT, anchor="rm", width=0.5 * across)
        return image

    def _draw(self, frame: int) -> RGB:
        """The header above, the pictures on the left, the charts on the right."""
        image, step, top = self._ground.copy(), int(self._shown.steps[frame]), self._top
        self._draw_header(image, step)
        spare = image.height - self._margin - top - self._montage.size[1]
        image.paste(image_of(self._montage.draw(frame)), (self._margin, top + spare // 2))
        for chart in self._charts:
            image.paste(image_of(chart.draw(step)), (image.width - self._margin - chart.size[0], top))
            top += chart.size[1] + self._gap
        return np.asarray(image)

    def _draw_header(self, image: PilImage, step: int) -> None:
        """The step, the epoch where it is known, and a bar that grows."""
        from PIL import ImageDraw

        pencil, bar = ImageDraw.Draw(image), self._margin + round(1.35 * self._font)
        at = self._draw_count(pencil, self._margin, "step", str(step))
        if self._total:
            self._draw_count(pencil, at, "of", str(self._total))
        # Where it stands at the last step.
        at = self._after(self._margin, "step", str(self._total))
        at = self._after(at, "of", str(self._total)) + 0.9 * self._font
        epoch = self._epoch.at(step) if self._epoch is not None else math.nan
        if math.isfinite(epoch):
            self._draw_count(pencil, at, "epoch", f"{epoch:.4g}")
        length, thick = image.width - 2 * self._margin - 1, max(1, self._px(2))
        done = round(length * min(step / max(self._total, 1), 1))
        pencil.rectangle((self._margin, bar, self._margin + length, bar + thick), GRID)
        pencil.rectangle((self._margin, bar, self._margin + done, bar + thick), FAINT)

    def _draw_count(self, pencil: Pencil, left: float, word: str, number: str) -> float:
        """A word and a number after it; gives where the next word may begin."""
        size, y = self._header, self._margin + 0.4 * self._font
        draw_text(pencil, (left, y), word, size=size, color=FAINT)
        draw_text(pencil, (left + text_width(word, size) + 0.4 * self._font, y), number, size=size)
        return self._after(left, word, number)

    def _after(self, left: float, word: str, number: str) -> float:
        """Where the next word may begin: the same for all numbers of so many digits."""
        widest = max(text_width(digit, self._header) for digit in "0123456789") * len(number)
        return left + text_width(word, self._header) + widest + 0.8 * self._font

    @property
    def _header(self) -> int:
        return round(1.2 * self._font)


def frames_of(recording: Recording, **options: Any) -> Film:
    """Draw a recording as the frames of a film: overlays beside the curves of loss and shares, up to each frame's step.

    Parameters
    ----------
    recording : Recording
    most : int
        Frames, 120 by default; of more, the first, the last and evenly chosen ones between them are taken.
    width : int
        Of each frame in pixels, 960 by default; letters and lines follow it. Narrower without curves.
    shares : sequence of str, optional
        The curves of the second chart: see `camcore.films.charts.share_curves`. Empty for none.
    columns : int, optional
        Of pictures. By default so many that the pictures are as large as can be.
    cmap, alpha
        See `camcore.render.overlay`; by default ``"jet"`` and ``"heat"``.
    title : str, optional
        Stands above on the right; the method and the layer where absent.
    trends : mapping of str to Curve, optional
        What `camcore.drift.trends` gives for the recording; computed where absent.

    Returns
    -------
    sequence of (height, width, 3) uint8 ndarray
        All of one size. Each is drawn when it is asked for: iterate over it, and a film of any length takes the memory
        of one frame.

    Raises
    ------
    InputError
        For a recording without frames or pictures, and for an option out of range.
    """
    return Film(recording, **options)
