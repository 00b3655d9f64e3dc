"""Differences of the network behind a layer along random directions, and what its gradient says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.checking.verify import relative
from camcore_onnx.gradients.build import Order
from camcore_onnx.gradients.double import DoubleTail
from camcore_onnx.gradients.session import Pulled
from camcore_onnx.reading.load import serialize
from camcore_onnx.running.runtime import make_session
from camcore_onnx.surgery import add_outputs

__all__ = ["Probe"]

Floats = NDArray[np.floating[Any]]
_STEPS = tuple(10.0**k for k in range(-8, -2))
_ENOUGH = 1e-5
_OFTEN = 3  # a value that so many features share is a bound: zero behind a ReLU


@dataclass(frozen=True, eq=False)
class Probe:
    """The network behind a layer, in double precision, and the gradients to be checked.

    Attributes
    ----------
    tail : DoubleTail
    pulled : Pulled
        Features and gradients of some images, with axes as in the model.
    classes : (N,) ndarray
    crossing : dict
        What else the tail reads, of each image.
    batch : int
        How many images the model takes at least.
    still : bool
        Whether features that share a value are kept as they are.
    """

    tail: DoubleTail
    pulled: Pulled
    classes: NDArray[np.int64]
    crossing: dict[str, NDArray[Any]]
    batch: int
    still: bool = False

    @classmethod
    def of(cls, backend: OnnxBackend, layer: str, images: Floats, *, tolerance: float) -> Probe:
        """Of the best class of each image.

        Raises
        ------
        MethodNotPossible
            If the tail does not reproduce the scores of the model up to ``tolerance``, relative to the largest.
        """
        batch = backend.input.shape[0] or 1
        feed = {backend.input.name: np.repeat(images[:1], batch, axis=0).astype(backend.input.dtype)}
        tail = DoubleTail.of(backend.loaded, backend.found.logits.name or "", layer, [feed])
        best = np.full((len(images), 1), -1, np.int64)
        pulled = backend.differentiator(images, [backend.value(layer)], Order(target="logit"), classes=best)
        assert pulled.classes is not None  # chosen in the graph
        crossing = dict(_fetched(backend, tail.crossing, images))
        probe = cls(tail, pulled, pulled.classes[:, 0], crossing, batch)
        probe.check_scores(tolerance)
        return probe

    def features(self, i: int) -> Floats:
        return self.pulled.features[0][i].astype(np.float64)

    def gradient(self, i: int) -> Floats:
        """That of image ``i``, at the features that are moved."""
        gradient = np.broadcast_to(self.pulled.gradients[0][i, 0], self.pulled.features[0].shape[1:])
        return gradient.astype(np.float64) * self._moved[i]

    @cached_property
    def _moved(self) -> NDArray[np.bool_]:
        """Which features are moved."""
        features = self.pulled.features[0]
        return np.stack([~_shared(x) for x in features]) if self.still else np.ones(features.shape, bool)

    @property
    def repeated(self) -> bool:
        """Whether some features, not all, share a value."""
        return any(0 < shared.mean() < 1 for shared in map(_shared, self.pulled.features[0]))

    def scores(self, i: int, features: Floats) -> Floats:
        """Those of image ``i`` with these features."""
        rows = {name: np.repeat(t[i : i + 1], self.batch, axis=0) for name, t in self.crossing.items()}
        return self.tail(np.repeat(features[None], self.batch, axis=0), rows)[0]

    def check_scores(self, tolerance: float) -> None:
        """The tail must compute what the model computes."""
        for i, expected in enumerate(self.pulled.scores):
            off = relative(self.scores(i, self.features(i)), expected)
            if not off <= tolerance:
                raise MethodNotPossible(
                    f"what is behind {self.tail.layer!r} gives other scores in onnx.reference than in ONNX Runtime: "
                    f"they differ by {off:.1e} of the largest one, so that its differences are no reference"
                )

    def direction(self, i: int, generator: np.random.Generator) -> Floats:
        """Normal numbers of the size of the features."""
        return generator.standard_normal(self._moved[i].shape) * self._moved[i] * self._size(i)

    def slope(self, i: int, direction: Floats, step: float) -> float:
        """The central difference along a direction."""
        x, c = self.features(i), self.classes[i]
        ends = (self.scores(i, x + sign * step * direction)[c] for sign in (1, -1))
        return float(next(ends) - next(ends)) / (2 * step)

    def error(self, i: int, direction: Floats, step: float) -> float:
        """The error along a direction, relative to what a gradient of this length gives along such a one."""
        return self._share(i, self.slope(i, direction, step) - float((self.gradient(i) * direction).sum()))

    def best_step(self, generator: np.random.Generator) -> tuple[float, float]:
        """The shortest step at which rounding and bending do not matter, or where they matter least, and how much."""
        direction = self.direction(0, generator)
        found: list[tuple[float, float]] = []
        for short, long in pairwise(_STEPS):
            change = self._share(0, self.slope(0, direction, long) - self.slope(0, direction, short))
            found.append((change, short))
            if change <= _ENOUGH:
                break
        change, step = min(found)
        return step, change

    def _size(self, i: int) -> float:
        return float(np.sqrt(np.mean(self.features(i) ** 2))) or 1.0

    def _share(self, i: int, slope: float) -> float:
        size = float(np.linalg.norm(self.gradient(i))) * self._size(i)
        return abs(slope) / size if size > 0 else (0.0 if slope == 0 else float("inf"))


def _shared(features: Floats) -> NDArray[np.bool_]:
    """Where a feature has a value that many have."""
    _, which, counts = np.unique(features, return_inverse=True, return_counts=True)
    return (counts[which] >= _OFTEN).reshape(features.shape)


def _fetched(backend: OnnxBackend, names: Sequence[str], images: Floats) -> Iterator[tuple[str, NDArray[Any]]]:
    """Tensors of the full model, for each image."""
    spec = backend.input
    values = {v.name or "": v for node in backend.graph for v in node.outputs}
    made = {name: values[name] for name in names if name in values}
    if spec.name in names:
        yield spec.name, images
    if made:
        model = add_outputs(backend.loaded, made)
        session = make_session(serialize(model), device="cpu", folder=backend.loaded.folder)
        feeds = (np.repeat(image[None], spec.shape[0] or 1, axis=0).astype(spec.dtype) for image in images)
        runs = [session.run(list(made), {spec.name: feed}) for feed in feeds]
        for k, name in enumerate(made):
            yield name, np.concatenate([run[k][:1] for run in runs])
