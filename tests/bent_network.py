"""A network in plain NumPy whose tail is no pooled head: position counts, and so does each feature's own bend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy_network import PooledNetwork

from camcore import Evidence, InputError, Tap, Target, target
from camcore.head import global_mean

ALL = frozenset({"features", "head", "tail", "model", "gradients", "curvature"})


@dataclass
class BentNetwork(PooledNetwork):
    """Scores of ``head(mean_u c(u) tanh(A_k(u)))``: it gives gradients and curvature, and notes what it was asked."""

    gives: frozenset[str] = ALL
    claims: bool = False  # a head that is not there
    asked: list[frozenset[str]] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)  # features shown to the tail at a time

    def weights(self, space: tuple[int, ...]) -> np.ndarray:
        """Positions count more the further they are along the last axis."""
        return np.broadcast_to(np.linspace(0, 3, space[-1], dtype=np.float32), space)

    def behind(self, features: np.ndarray) -> np.ndarray:
        """(M, K) scores of features."""
        return self.head(global_mean(self.weights(features.shape[2:]) * np.tanh(features)))

    def scores(self, images: np.ndarray) -> np.ndarray:
        return self.behind(self.features(images))

    def tap(self, layer: str | None = None, example: np.ndarray | None = None) -> Tap:
        if layer not in (None, "relu"):
            raise InputError(f"layer {layer!r} is not known. Did you mean 'relu'?")
        if self.claims:
            return Tap("relu", self.head, "mean -> linear")
        return Tap("relu", None, obstacle="the tail bends.")

    def gradients(self, features: np.ndarray, scores: np.ndarray, classes: np.ndarray, wanted: Target) -> np.ndarray:
        """(N, T, C, *S), by hand."""
        space = features.shape[2:]
        slopes = wanted.aim(scores, classes).slopes() @ self.head.weight / np.prod(space)
        bend = self.weights(space) * (1 - np.tanh(features.astype(np.float64)) ** 2)
        return slopes.reshape(*slopes.shape, *(1 for _ in space)) * bend[:, None]

    def curvature(self, features: np.ndarray, classes: np.ndarray, wanted: Target) -> np.ndarray:
        """How the gradients change as the features grow in proportion."""
        held = wanted.aim(self.behind(features), classes).held()

        def at(scale: float) -> np.ndarray:
            moved = features.astype(np.float64) * scale
            return self.gradients(moved, self.behind(moved), classes, held)

        return (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5

    def observe(
        self,
        images: np.ndarray,
        *,
        needs: frozenset[str],
        layers: Sequence[str | None] = (None,),
        classes: Any = None,
        labels: Sequence[str] | None = None,
        target: Target | None = None,
    ) -> list[Evidence]:
        assert needs <= self.gives - {"tail", "model"}, "asked for what it does not give"
        self.asked.append(needs)
        seen = super().observe(images, needs=needs, layers=layers, classes=classes, labels=labels)
        return [self._differentiated(one, needs, target) for one in seen]

    def _differentiated(self, seen: Evidence, needs: frozenset[str], wanted: Target | None) -> Evidence:
        features, classes, aim = seen.need_features(), seen.classes, wanted or target("logit")
        return Evidence(
            seen.scores,
            classes,
            features,
            seen.head,
            gradients=self.gradients(features, seen.scores, classes, aim) if "gradients" in needs else None,
            curvature=self.curvature(features, classes, aim) if "curvature" in needs else None,
        )

    def tails(self, images: np.ndarray, layer: str | None = None) -> list[Any]:
        def run(features: np.ndarray) -> np.ndarray:
            self.runs.append(len(features))
            return self.behind(features)

        return [run for _ in images]
