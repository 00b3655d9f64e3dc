"""Loss and accuracy of the validation pictures over the epochs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from camcore.films.axes import Axis, loss_axis, share_axis
from camcore.films.chart import Chart, Line, Plot
from camcore.films.charts import share_text
from camcore.films.theme import FAINT, LOSSES, SHARES, blank, draw_text, image_of
from camcore.recording import Curve
from camcore_tools.evaluation.scoring import TOPS, Score
from camcore_tools.training.history import Epoch

__all__ = ["curves_picture"]

_WIDTH, _HEIGHT, _FONT = 1280, 440, 16


def curves_picture(scores: Sequence[Score], history: Sequence[Epoch], *, classes: int) -> NDArray[np.uint8]:
    """Draw what was measured.

    Parameters
    ----------
    scores : sequence of Score
        Of the checkpoints, by their epochs.
    history : sequence of Epoch
        Of the training; for its loss.
    classes : int
        How many: the best k of k classes are always right, and are not drawn.

    Returns
    -------
    (H, W, 3) uint8 ndarray
    """
    steps = min(s.epoch for s in scores), max(s.epoch for s in scores)
    margin, head = round(1.4 * _FONT), round(4.2 * _FONT)
    each = (_WIDTH - 3 * margin) // 2
    image = blank(_WIDTH, head + _HEIGHT + margin)
    pencil = ImageDraw.Draw(image)
    plots = (
        ("Loss", "cross-entropy, epoch by epoch", Plot(*_losses(scores, history), steps, "epochs")),
        ("Accuracy", _best_line(scores), Plot(_shares(scores, classes), share_axis(), steps, "epochs")),
    )
    for number, (title, text, plot) in enumerate(plots):
        left = margin + number * (each + margin)
        draw_text(pencil, (left, 0.32 * head), title, size=round(1.2 * _FONT))
        draw_text(pencil, (left, 0.72 * head), text, size=round(0.85 * _FONT), color=FAINT, width=each)
        image.paste(image_of(Chart(plot, (each, _HEIGHT), font=_FONT).draw()), (left, head))
    return np.asarray(image)


def _best_line(scores: Sequence[Score]) -> str:
    """The highest top-1, then the lowest loss, as everywhere in a run."""
    best = max(scores, key=lambda s: (s.top1, -s.loss, -s.epoch))
    return f"validation pictures; best epoch {best.epoch}: {best.top1:.1%} top-1"


def _losses(scores: Sequence[Score], history: Sequence[Epoch]) -> tuple[list[Line], Axis]:
    validation = _curve(scores, "loss")
    lines = [Line("validation", validation, LOSSES[0], _short, marks=True)]
    trained = [row for row in history if scores[0].epoch <= row.epoch <= scores[-1].epoch]
    if trained:
        lines.append(Line("training", _curve(trained, "loss"), LOSSES[1], _short, marks=True))
    values = np.concatenate([line.curve.values for line in lines])
    return lines, loss_axis(values, values)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _shares(scores: Sequence[Score], classes: int) -> list[Line]:
    shown = [k for k in TOPS if k < classes] or [1]
    return [
        Line(f"top-{k}", _curve(scores, f"top{k}"), color, share_text) for k, color in zip(shown, SHARES, strict=False)
    ]


def _curve(rows: Sequence[Score] | Sequence[Epoch], name: str) -> Curve:
    return Curve(np.array([r.epoch for r in rows], np.int64), np.array([getattr(r, name) for r in rows], np.float64))
