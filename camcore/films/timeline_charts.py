"""The charts of the timeline as plain data: which curves belong into one, on which axis, with few points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from camcore.drift import chance_inside
from camcore.films.axes import Axis, linear_axis, loss_axis, share_axis, step_axis
from camcore.films.curves import as_shares, is_rough
from camcore.films.lines import decimated, smoothed
from camcore.labels import clean
from camcore.recording.recording import Curve, Recording

__all__ = ["charts"]

_LEGEND = 6  # lines of a chart
_COLUMNS = 250  # each with at most four points of a line

_SPELLED = {
    "drift_previous": "the previous",
    "drift_final": "the final ones",
    "energy_inside": "heat on the object",
    "peaks_inside": "peaks on the object",
}


def charts(recording: Recording, trends: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """The charts of a page; one without a line is left out.

    Loss; shares (of the watched pictures that are right, where none was logged); how much of the heat lies on the
    object; how far the maps are from those of other frames; then each other curve in a chart of its own, as ``extra``.
    """
    logged = {n: c for n, c in recording.curves.items() if n.lower() != "epoch" and np.isfinite(c.values).any()}
    losses = {n: c for n, c in logged.items() if "loss" in n.lower()}
    shares = {n: s for n, c in logged.items() if n not in losses and (s := as_shares(n, c)) is not None}
    first, more = dict(list(shares.items())[:_LEGEND]), dict(list(shares.items())[_LEGEND:])
    others = {n: c for n, c in logged.items() if n not in losses and n not in shares}
    found = {n: c for n, c in trends.items() if not n.startswith("drift")}
    moved = {n: c for n, c in trends.items() if n not in found and len(recording) > 1}
    end = recording.total
    drawn = [
        _chart("Loss", losses, end, axis=_loss_axis(losses)),
        _chart("Accuracy" if all("acc" in n.lower() for n in first) else "Shares", first or _right(recording), end, 1),
        _chart("Heat", found, end, 3, chance=_chance(recording)),
        _chart("Maps differ from", moved, end, 4, axis=_axis(moved)),
        _chart("More shares", more, end, 2, extra=True),
        *(_chart(n, {n: c}, end, 2, axis=_axis({n: c}), extra=True) for n, c in others.items()),
    ]
    return [chart for chart in drawn if chart["lines"]]


def _right(recording: Recording) -> dict[str, Curve]:
    if recording.right.size == 0:
        return {}
    return {"watched pictures that are right": Curve(recording.steps, recording.right.mean(axis=1))}


def _chance(recording: Recording) -> float | None:
    chance = math.nan if recording.masks is None else chance_inside(recording.masks)
    return round(chance, 4) if math.isfinite(chance) else None


def _loss_axis(curves: Mapping[str, Curve]) -> Axis:
    raw = [curve.values for curve in curves.values()] or [np.zeros(0)]
    main = [_main(name, curve).values for name, curve in curves.items()] or [np.zeros(0)]
    return loss_axis(np.concatenate(raw), np.concatenate(main))


def _main(name: str, curve: Curve) -> Curve:
    """What is drawn in full colour; not the drift smoothed, whose last value is known to be 0."""
    return smoothed(curve) if is_rough(curve) and not name.startswith("drift") else curve


def _axis(curves: Mapping[str, Curve]) -> Axis:
    """From 0 up, or from below."""
    values = np.concatenate([c.values[np.isfinite(c.values)] for c in curves.values()] or [np.zeros(0)])
    return linear_axis(min(0.0, values.min(initial=0.0)), values.max(initial=0.0), most=4)


def _chart(
    title: str,
    curves: Mapping[str, Curve],
    end: int,
    colour: int = 0,
    *,
    axis: Axis | None = None,
    chance: float | None = None,
    extra: bool = False,
) -> dict[str, Any]:
    known = {name: curve for name, curve in curves.items() if np.isfinite(curve.values).any()}
    scale = axis or share_axis()
    return {
        "title": _spoken(title),
        "lines": [_line(name, curve, end, colour + n, scale) for n, (name, curve) in enumerate(known.items())],
        "axis": {"low": scale.low, "high": scale.high, "log": scale.log, "ticks": scale.ticks},
        "steps": step_axis(0, end, most=4).ticks,
        "share": axis is None,
        "chance": chance,
        "extra": extra,
    }


def _line(name: str, curve: Curve, end: int, colour: int, axis: Axis) -> dict[str, Any]:
    main = _main(name, curve)
    line = {
        "name": _spoken(name),
        "colour": colour,
        "main": _points(main, end),
        "lost": _lost(curve) if "loss" in name.lower() else None,
        "beyond": axis.beyond(curve),
    }
    return line | ({"raw": _points(curve, end)} if main is not curve else {})


def _lost(curve: Curve) -> int | None:
    """The step from which on a loss is not a number, if it ends so."""
    last = int(np.flatnonzero(np.isfinite(curve.values))[-1])
    return None if last == len(curve.steps) - 1 else int(curve.steps[last + 1])


def _points(curve: Curve, end: int) -> list[list[float]]:
    """Steps, and values of five digits: what a chart can show."""
    known = np.isfinite(curve.values)
    thin = decimated(Curve(curve.steps[known], curve.values[known]), 0, end, _COLUMNS)
    return [thin.steps.tolist(), [float(f"{value:.5g}") for value in thin.values.tolist()]]


def _spoken(name: str) -> str:
    return _SPELLED.get(name) or clean(name.replace("_", " ")) or "unnamed"
