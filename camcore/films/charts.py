"""Charts of a recording: the loss, and shares such as the accuracy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np

from camcore.drift import chance_inside
from camcore.drift import trends as find_trends
from camcore.errors import InputError, suggest
from camcore.films.axes import linear_axis, loss_axis, share_axis
from camcore.films.chart import Line, Plot
from camcore.films.curves import as_shares, is_rough
from camcore.films.lines import smoothed
from camcore.films.theme import LOSSES, SHARES, Color
from camcore.recording.recording import Curve, Recording

__all__ = ["loss_plot", "moved_plot", "share_curves", "share_text", "shares_plot"]

_ROUGH = 60  # a line of so many values is read more easily when smoothed
_MOST = 3  # logged shares that are drawn where none are asked for
_ROUNDING = 1e-6
_VALIDATION = re.compile(r"val|eval|test|dev", re.IGNORECASE)
_INSIDE = ("energy_inside", "peaks_inside")
_SPELLED = {
    "energy_inside": "heat on the object",
    "peaks_inside": "peaks on the object",
    "drift_final": "from the final maps",
    "drift_previous": "from the frame before",
}


def loss_plot(recording: Recording) -> Plot | None:
    """The first logged curve with ``loss`` in its name, and that of a validation or the next one.

    Long ones are smoothed, with the raw values behind.

    The axis is logarithmic if the smoothed loss is positive and spans two powers of ten or more. None without a loss.
    """
    found = [(name, curve) for name, curve in recording.curves.items() if "loss" in name.lower() and len(curve.steps)]
    found[1:] = sorted(found[1:], key=lambda item: not _VALIDATION.search(item[0]))
    lines = [_loss_line(name, curve, color) for (name, curve), color in zip(found, LOSSES, strict=False)]
    if not lines:
        return None
    raw, smooth = (np.concatenate([c.values for c in curves]) for curves in zip(*map(_both, lines), strict=True))
    return Plot(lines, loss_axis(raw, smooth), _span(recording))


def _loss_line(name: str, curve: Curve, color: Color) -> Line:
    return Line(_spoken(name), curve, color, _loss_text, smooth=_smooth(curve), marks=True)


def _smooth(curve: Curve) -> Curve | None:
    return smoothed(curve) if int(np.isfinite(curve.values).sum()) >= _ROUGH else None


def _steady(curve: Curve) -> Curve | None:
    return smoothed(curve) if is_rough(curve) else None


def _both(line: Line) -> tuple[Curve, Curve]:
    return line.curve, line.main


def shares_plot(
    recording: Recording, names: Sequence[str] | None = None, *, trends: Mapping[str, Curve] | None = None
) -> Plot | None:
    """Curves between 0 and 1 on an axis of percents, with what would be by chance; None if ``names`` is empty.

    Those that go up and down at each step are smoothed, as a loss is.

    Parameters
    ----------
    recording : Recording
    names, trends
        See `share_curves`.
    """
    curves = share_curves(recording, names, trends=trends)
    chance = chance_inside(recording.masks) if recording.masks is not None else math.nan
    lines = [
        Line(
            _spoken(name),
            curve,
            color,
            share_text,
            smooth=_steady(curve),
            level=chance if name in _INSIDE else None,
            level_name="heat by chance",
        )
        for (name, curve), color in zip(curves.items(), cycle(SHARES), strict=False)
    ]
    return Plot(lines, share_axis(), _span(recording)) if lines else None


def moved_plot(recording: Recording, *, trends: Mapping[str, Curve] | None = None) -> Plot:
    """How far the maps are from those of the frame before and from the final ones: see `camcore.drift.map_drift`."""
    found = find_trends(recording) if trends is None else trends
    lines = [
        Line(_spoken(name), found[name], color, lambda value: f"{value:.2f}")
        for name, color in zip(("drift_final", "drift_previous"), (SHARES[3], LOSSES[1]), strict=True)
    ]
    highest = max(np.nanmax(found[name].values, initial=1.0) for name in ("drift_final", "drift_previous"))
    return Plot(lines, linear_axis(0, highest), _span(recording))


def share_curves(
    recording: Recording, names: Sequence[str] | None = None, *, trends: Mapping[str, Curve] | None = None
) -> dict[str, Curve]:
    """The curves between 0 and 1 of a recording.

    Parameters
    ----------
    recording : Recording
    names : sequence of str, optional
        Logged curves, those of `camcore.drift.trends`, or ``probability``: of the class whose map it is, the mean over
        the pictures. By default the first three logged ones that are called an accuracy or another share, and
        ``energy_inside`` if there are masks; ``probability`` if there is neither.
    trends : mapping of str to Curve, optional
        What `camcore.drift.trends` gives for the recording; computed if absent and needed.

    Returns
    -------
    dict of str to Curve
        What was logged in percent under the name of a share is divided by 100.

    Raises
    ------
    InputError
        For a name that is not known, or a curve with values outside 0 to 1.
    """
    if trends is None:
        trends = find_trends(recording) if names is None or set(names) - set(recording.curves) else {}
    own = {"probability": Curve(recording.steps, recording.probabilities.mean(axis=1, dtype=np.float64))}
    known = {**own, **trends, **recording.curves}
    if names is None:
        names = _usual(known, recording)
    for name in names:
        if name not in known:
            raise InputError(f"curve {name!r} is not there. {suggest(name, known)}")
    return {name: _share(name, known[name]) for name in names}


def _usual(known: Mapping[str, Curve], recording: Recording) -> list[str]:
    logged = [name for name, curve in recording.curves.items() if _finite(curve) and as_shares(name, curve) is not None]
    inside = ["energy_inside"] if "energy_inside" in known and _finite(known["energy_inside"]) else []
    return [*logged[:_MOST], *inside] or ["probability"]


def _finite(curve: Curve) -> bool:
    return bool(np.isfinite(curve.values).any())


def _share(name: str, curve: Curve) -> Curve:
    if not _finite(curve):
        return curve
    low, high = float(np.nanmin(curve.values)), float(np.nanmax(curve.values))
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return curve
    share = as_shares(name, curve)
    if share is None:
        raise InputError(f"curve {name!r} runs from {low:.4g} to {high:.4g}; expected shares, within 0 to 1")
    return share


def _span(recording: Recording) -> tuple[int, int]:
    return min(0, int(recording.steps[0])), recording.total


def _spoken(name: str) -> str:
    return _SPELLED.get(name, name.replace("_", " "))


def _loss_text(value: float) -> str:
    """Three digits that count, or as many as a whole number has."""
    size = abs(value)
    return f"{value:.2f}" if 0.1 <= size < 100 else f"{value:.0f}" if 100 <= size < 1e6 else f"{value:.3g}"


def share_text(value: float) -> str:
    """In percent; a dash for NaN.

    Examples
    --------
    >>> share_text(0.874)
    '87 %'
    """
    return f"{value:.0%}".replace("%", " %") if math.isfinite(value) else "–"
