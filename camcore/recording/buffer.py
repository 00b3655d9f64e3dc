"""Frames and numbers of a training as they come, in arrays that grow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from camcore.errors import InputError
from camcore.recording.recording import Curve, Recording

__all__ = ["Curves", "RecordingBuffer", "Rows", "Store", "check_frame"]

_GROWTH = 1.5


class Store(Protocol):
    """Where a recording is kept while it grows: `RecordingBuffer`, or `camcore.recording.files.RecordingWriter`."""

    def __len__(self) -> int:
        """How many frames there are."""

    @property
    def last(self) -> int:
        """The step of the last frame; -1 where there is none."""

    @property
    def recording(self) -> Recording:
        """What there is now. It stays as it is when more comes."""

    def append(self, step: int, maps: ArrayLike, probabilities: ArrayLike, best: ArrayLike) -> None:
        """A frame: (N, *s) maps, (N,) probabilities and best classes after ``step`` steps."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers after ``step`` steps."""

    def cut(self, step: int) -> None:
        """Drop what came after a step; -1 drops all."""

    def flush(self, *, sync: bool = False) -> None:
        """Bring to its place what is still on its way; with ``sync`` also through the system's own buffers."""


class Rows:
    """An array that grows by rows. What was read of it before stays as it was.

    Examples
    --------
    >>> rows = Rows((2,), np.float32)
    >>> rows.append([1, 2])
    >>> rows.append([3, 4])
    >>> rows.array
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._data: NDArray[Any] = np.empty((0, *shape), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def array(self) -> NDArray[Any]:
        """All rows, to be read only."""
        view = self._data[: self._count]
        view.flags.writeable = False
        return view

    def append(self, row: ArrayLike) -> None:
        """One more row."""
        self.extend(np.asarray(row)[None])

    def extend(self, rows: ArrayLike) -> None:
        """Several more rows."""
        rows = np.asarray(rows)
        count = self._count + len(rows)
        if count > len(self._data):
            grown = np.empty((max(count, math.ceil(_GROWTH * count)), *self._data.shape[1:]), self._data.dtype)
            grown[: self._count] = self._data[: self._count]
            self._data = grown
        self._data[self._count : count] = rows
        self._count = count

    def correct(self, row: ArrayLike) -> None:
        """Another value for the last row."""
        self._data[self._count - 1] = row

    def cut(self, count: int) -> None:
        """Keep the first rows; the others may still be held by somebody, so nothing is written over them."""
        self._data, self._count = self._data[:count].copy(), count


class Curves:
    """Numbers by name, each at steps of its own; of a step counts what was said last."""

    def __init__(self) -> None:
        self._steps: dict[str, Rows] = {}
        self._values: dict[str, Rows] = {}

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers after a step, which must not lie before those that are there."""
        for name, value in numbers.items():
            steps = self._steps.setdefault(name, Rows((), np.int64))
            values = self._values.setdefault(name, Rows((), np.float64))
            if len(steps) and steps.array[-1] == step:
                values.correct(value)
            else:
                steps.append(step)
                values.append(value)

    def extend(self, curves: Mapping[str, Curve]) -> None:
        """What was read from a file."""
        for name, curve in curves.items():
            self._steps.setdefault(name, Rows((), np.int64)).extend(curve.steps)
            self._values.setdefault(name, Rows((), np.float64)).extend(curve.values)

    def cut(self, step: int) -> None:
        """Drop what came after a step."""
        for name, steps in list(self._steps.items()):
            count = int(np.searchsorted(steps.array, step, side="right"))
            if count == 0:
                del self._steps[name], self._values[name]
            elif count < len(steps):
                steps.cut(count)
                self._values[name].cut(count)

    def read(self) -> dict[str, Curve]:
        """All of them."""
        return {name: Curve(steps.array, self._values[name].array) for name, steps in self._steps.items()}


def check_frame(about: Recording, last: int, step: int, maps: NDArray[Any], rest: tuple[NDArray[Any], ...]) -> None:
    """A frame must be of the pictures and the size of those before, and come after them.

    Raises
    ------
    InputError
    """
    if step <= last:
        raise InputError(f"a frame of step {step} cannot follow that of step {last}")
    wanted = about.maps.shape[1:]
    if maps.shape != wanted or any(r.shape != wanted[:1] for r in rest):
        raise InputError(f"the maps are {maps.shape} and were {wanted}; all frames of a recording are of one size")


class RecordingBuffer:
    """A recording that grows in memory; a `Store`.

    Parameters
    ----------
    about : Recording
        What does not change: classes, pictures, names. Its frames and curves are the first ones.
    """

    def __init__(self, about: Recording) -> None:
        self._about = about
        self._frames = {name: _grown(getattr(about, name)) for name in ("steps", "maps", "probabilities", "best")}
        self._curves = Curves()
        self._curves.extend(about.curves)

    def __len__(self) -> int:
        return len(self._frames["steps"])

    @property
    def last(self) -> int:
        """The step of the last frame; -1 where there is none."""
        return int(self._frames["steps"].array[-1]) if len(self) else -1

    @property
    def recording(self) -> Recording:
        """What there is now."""
        frames: dict[str, Any] = {name: rows.array for name, rows in self._frames.items()}
        return replace(self._about, **frames, curves=self._curves.read())

    def append(self, step: int, maps: ArrayLike, probabilities: ArrayLike, best: ArrayLike) -> None:
        """A frame."""
        maps, rest = np.asarray(maps, np.float32), (np.asarray(probabilities, np.float32), np.asarray(best, np.int64))
        check_frame(self._about, self.last, step, maps, rest)
        values: tuple[NDArray[Any], ...] = (np.asarray(step), maps, *rest)
        for rows, value in zip(self._frames.values(), values, strict=True):
            rows.append(value)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers after a step."""
        self._curves.log(step, numbers)

    def cut(self, step: int) -> None:
        """Drop what came after a step."""
        count = int(np.searchsorted(self._frames["steps"].array, step, side="right"))
        if count < len(self):
            for rows in self._frames.values():
                rows.cut(count)
        self._curves.cut(step)

    def flush(self, *, sync: bool = False) -> None:
        """Nothing is on its way."""


def _grown(start: NDArray[Any]) -> Rows:
    rows = Rows(start.shape[1:], start.dtype)
    rows.extend(start)
    return rows
