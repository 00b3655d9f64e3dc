"""What was seen of a training: the raw maps of some pictures, step after step, and the curves beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.normalize import finite, normalize, rectify
from camcore.resize import resize

__all__ = ["Curve", "Recording"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Curve:
    """Numbers of a training over its steps: (n,) steps, in order, and (n,) values, NaN where there was none."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def at(self, step: int) -> float:
        """The last value up to a step; NaN before the first."""
        seen = int(np.searchsorted(self.steps, step, side="right"))
        return float(self.values[seen - 1]) if seen else float("nan")


@dataclass(frozen=True, eq=False)
class Recording:
    """F frames of the class activation maps of N pictures, of a training of ``total`` steps.

    Attributes
    ----------
    steps : (F,) int64 ndarray
        After how many steps of the training each frame was taken, rising; 0 is the untrained network.
    maps : (F, N, *s) float32 ndarray
        Raw and signed, of ``classes``. May lie in a file, mapped into memory.
    probabilities : (F, N) float32 ndarray
        Of ``classes``.
    best : (F, N) int64 ndarray
        The class that each picture is taken for; -1 where its scores are no numbers.
    classes : (N,) int64 ndarray
        Whose maps they are; the true ones, as a rule.
    pictures : (N, H, W, 3) uint8 ndarray
        For the eye, as the network saw them; of any size.
    curves : mapping of str to Curve
        What was logged: ``loss``, ``accuracy``, ``epoch`` ...
    labels : tuple of str or None
        Names of all classes.
    names : tuple of str
        Of the pictures.
    masks : (N, h, w) bool ndarray or None
        Where the object is.
    method, layer : str
    rectifies : bool
        Whether heatmaps start from ReLU(map).
    """

    steps: NDArray[np.int64]
    maps: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    best: NDArray[np.int64]
    classes: NDArray[np.int64]
    pictures: NDArray[np.uint8]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    masks: NDArray[np.bool_] | None = None
    method: str = "cam"
    layer: str = ""
    rectifies: bool = False

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(F, N): whether each picture was taken for the class whose map it is."""
        return self.best == self.classes

    @property
    def total(self) -> int:
        """Steps of the training, as far as they are known."""
        ends = [self.steps, *(curve.steps for curve in self.curves.values())]
        return max((int(steps[-1]) for steps in ends if len(steps)), default=0)

    def label(self, index: int) -> str:
        """The name of a class, or ``class 7`` where names are not known; ``no class`` for -1."""
        if index < 0:
            return "no class"
        return self.labels[index] if self.labels is not None else f"class {index}"

    def heatmaps(self, frame: int, size: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(N, H, W) maps of a frame, rectified where the method says so, resized and scaled to [0, 1] each.

        ``size`` is that of the pictures where absent.
        """
        maps = np.asarray(self.maps[frame])
        maps = finite(rectify(maps) if self.rectifies else maps, tuple(range(1, maps.ndim)))
        larger = resize(maps, tuple(size or self.pictures.shape[1:3]))
        return normalize(larger).astype(np.float32, copy=False)

    def frames(self, chosen: Sequence[int] | NDArray[np.integer[Any]]) -> Recording:
        """Some of the frames, by their numbers; the curves stay whole."""
        index = np.asarray(chosen, np.int64)
        if index.ndim != 1 or len(index) == 0 or index.min() < -len(self) or index.max() >= len(self):
            raise InputError(f"frames are {chosen!r}; expected numbers of frames, 0 to {len(self) - 1}")
        parts = {name: getattr(self, name)[index] for name in ("steps", "maps", "probabilities", "best")}
        return replace(self, **parts)

    def thinned(self, most: int) -> Recording:
        """At most so many frames, evenly chosen; the first and the last stay."""
        if len(self) <= most:
            return self
        return self.frames(np.unique(np.rint(np.linspace(0, len(self) - 1, max(most, 2))).astype(np.int64)))

    def pick(self, numbers: Sequence[int]) -> Recording:
        """Some of the pictures, by their numbers."""
        index = np.asarray(numbers, np.int64)
        if index.ndim != 1 or len(index) == 0 or index.min() < -len(self.classes) or index.max() >= len(self.classes):
            raise InputError(f"pictures are {numbers!r}; expected numbers of pictures, 0 to {len(self.classes) - 1}")
        return replace(
            self,
            maps=self.maps[:, index],
            probabilities=self.probabilities[:, index],
            best=self.best[:, index],
            classes=self.classes[index],
            pictures=self.pictures[index],
            names=tuple(self.names[i] for i in index.tolist()) if self.names else (),
            masks=None if self.masks is None else self.masks[index],
        )
