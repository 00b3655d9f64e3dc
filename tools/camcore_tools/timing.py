"""Fair times: calls take turns in one process, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from camcore_tools.console import Progress

__all__ = ["Run", "alternate", "timed"]

_BACK_TO_BACK = 3
_SPIN = 0.08  # seconds that workers wait for more work, busily
Run = Callable[[], Any]


def alternate(
    runs: dict[str, Run], rounds: int, bar: Progress | None = None, *, turns: int = _BACK_TO_BACK
) -> dict[str, float]:
    """Median seconds of a call of each: in every round each takes its turn, so that a slow moment hits all alike.

    A turn is calls that do not count, for as long as the workers of the one before still spin, and then a few back to
    back, as a user makes them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            if turns > 1:
                _settle(call)
            times[name] += [timed(call) for _ in range(turns)]
        if bar is not None:
            bar.step()
    return {name: statistics.median(values) for name, values in times.items()}


def _settle(call: Run) -> None:
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < _SPIN:
        call()


def timed(call: Run) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
