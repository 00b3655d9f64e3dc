"""How the maps of a training moved, and how much of them came to lie on the object, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from camcore.drift import trends as find_trends
from camcore.files import save_picture
from camcore.films.chart import Chart, Plot
from camcore.films.charts import moved_plot, shares_plot
from camcore.films.theme import RGB, blank, draw_text, image_of
from camcore.recording.recording import Curve, Recording
from camcore.render import at_least

__all__ = ["drift_chart", "save_drift_chart"]

_MOVED, _INSIDE = "How far the maps moved (1 - rank correlation)", "How much of the heat lies on the object"


def drift_chart(recording: Recording, *, width: int = 1200, trends: Mapping[str, Curve] | None = None) -> RGB:
    """Draw the curves of `camcore.drift.trends`.

    Parameters
    ----------
    recording : Recording
    width : int
        In pixels.
    trends : mapping of str to Curve, optional
        What `camcore.drift.trends` gives for the recording; computed where absent.

    Returns
    -------
    (height, width, 3) uint8 ndarray
        On the left how far the maps moved; on the right, if there are masks, heat and peaks on the object, with what
        they would be by chance.

    Raises
    ------
    InputError
        For a recording without frames, and for a width below 240.
    """
    from PIL import ImageDraw

    found = find_trends(recording) if trends is None else trends
    plots: dict[str, Plot | None] = {_MOVED: moved_plot(recording, trends=found)}
    if inside := [name for name in ("energy_inside", "peaks_inside") if name in found]:
        plots[_INSIDE] = shares_plot(recording, inside, trends=found)
    font = max(9, round(at_least(240, "width", width) / (70 + 15 * len(plots))))
    margin, head, high = round(1.4 * font), round(3.6 * font), round(22 * font)
    each = (width - (1 + len(plots)) * margin) // len(plots)
    charts = [(title, Chart(plot, (each, high), font=font)) for title, plot in plots.items() if plot is not None]
    image = blank(width, head + high + margin)
    for number, (title, chart) in enumerate(charts):
        left = margin + number * (each + margin)
        draw_text(ImageDraw.Draw(image), (left, head / 2), title, size=round(1.2 * font), width=each)
        image.paste(image_of(chart.draw()), (left, head))
    return np.asarray(image)


def save_drift_chart(path: str | PathLike[str], recording: Recording, **options: Any) -> None:
    """Write `drift_chart` to a picture file; for errors see also `camcore.files.save_picture`."""
    save_picture(path, drift_chart(recording, **options))
