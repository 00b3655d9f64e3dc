"""The axes of a chart: round numbers as ticks, linear or logarithmic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.recording.recording import Curve

__all__ = ["Axis", "linear_axis", "log_axis", "loss_axis", "share_axis", "step_axis"]

Real = NDArray[np.float64]

_DECADES = 100.0  # a loss whose largest value is this many times its smallest is drawn on a logarithmic axis
_DEEPEST = 1e-12  # a logarithmic axis goes no deeper below its largest value
_FINEST = 1e-5  # of its values; a linear axis shows no smaller differences
_ROUNDING = 1e-6
_LARGEST = 1e100  # of a loss that is drawn; no sum or ratio of such numbers overflows


@dataclass(frozen=True)
class Axis:
    """What an axis spans, and where its ticks are."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, values: NDArray[Any] | float) -> Real:
        """Where values lie along the axis, 0 to 1; those beyond its ends at the ends, NaN stays."""
        bounded = np.clip(np.asarray(values, np.float64), self.low, self.high)
        if self.log:
            return np.log(bounded / self.low) / math.log(self.high / self.low)
        return (bounded - self.low) / (self.high - self.low)

    def beyond(self, curve: Curve) -> list[tuple[int, float]]:
        """Step and value of the largest point above the axis and of the smallest below it, as far as there are any."""
        known = np.flatnonzero(np.isfinite(curve.values))
        values = curve.values[known]
        if len(values) == 0:
            return []
        out = [int(values.argmax())] if values.max() > self.high + _ROUNDING * abs(self.high) else []
        out += [int(values.argmin())] if values.min() < self.low - _ROUNDING * abs(self.low) else []
        return [(int(curve.steps[known[n]]), float(values[n])) for n in out]


def linear_axis(low: float, high: float, *, most: int = 5, widen: bool = True) -> Axis:
    """At most about ``most`` ticks at multiples of 1, 2 or 5 times a power of ten; widened to the ticks around.

    Examples
    --------
    >>> linear_axis(0, 1.74).ticks
    ((0.0, '0'), (0.5, '0.5'), (1.0, '1'), (1.5, '1.5'), (2.0, '2'))
    """
    size = max(abs(low), abs(high))
    if high - low <= _FINEST * size or size < 1 / _LARGEST:
        size = size if size > 1 / _LARGEST else 1.0
        low, high = low - 0.5 * size, high + 0.5 * size
    step = _round_step((high - low) / most)
    first, last = (math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))
    if not widen:
        first, last = (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
    ticks = tuple((n * step, _number(n * step)) for n in range(first, last + 1))
    return Axis(ticks[0][0], ticks[-1][0], ticks) if widen else Axis(low, high, ticks)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10 times a power of ten from ``least`` on."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= least * (1 - 1e-9))


def log_axis(low: float, high: float, *, most: int = 6) -> Axis:
    """Ticks at powers of ten, some left out where there are many; widened to the powers around.

    Examples
    --------
    >>> log_axis(0.004, 2.3).ticks
    ((0.001, '0.001'), (0.01, '0.01'), (0.1, '0.1'), (1.0, '1'), (10.0, '10'))
    """
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    stride = math.ceil((last - first + 1) / most)
    ticks = tuple((10.0**n, _number(10.0**n)) for n in range(first, last + 1, stride))
    return Axis(10.0**first, 10.0**last, ticks, log=True)


def loss_axis(raw: Real, main: Real) -> Axis:
    """For a loss: from 0 where that wastes little room, logarithmic where it covers several powers of ten.

    It holds all of ``main``, which is drawn in full colour. Single values of ``raw``, which stands faintly behind, are
    cut off where they are far above all others; charts mark them: see `Axis.beyond`.
    """
    raw, main = (np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST) for values in (raw, main))
    if len(raw) == 0:
        return linear_axis(0, 1)
    low, high = float(main.min()), max(float(main.max()), float(np.percentile(raw, 99)))
    if low > 0 and high / low >= _DECADES:
        return log_axis(max(low, _DEEPEST * high), high, most=5)
    low = min(low, float(np.percentile(raw, 1)))
    return linear_axis(0 if 0 <= low < 0.6 * high else low, high, most=4)


def share_axis() -> Axis:
    """From 0 % to 100 %."""
    return Axis(0, 1, tuple((n / 4, f"{25 * n} %") for n in range(5)))


def step_axis(first: int, last: int, *, most: int = 5) -> Axis:
    """Steps of a training; the axis ends where they end.

    Examples
    --------
    >>> step_axis(0, 1120, most=4).ticks
    ((0.0, '0'), (500.0, '500'), (1000.0, '1000'))
    """
    last = max(last, first + 1)
    return linear_axis(first, last, most=min(most, last - first), widen=False)


def _number(value: float) -> str:
    """Short: 0.5, 1200, 20k, 1e-05."""
    if abs(value) >= 10_000:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.6g}"
