"""A network in plain NumPy, as the backend of tests that need one, and explanations without any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from camcore import (
    Evidence,
    Explanation,
    InputError,
    InputSpec,
    Layer,
    LinearHead,
    Preprocess,
    Tap,
    Target,
    choose_classes,
)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclass
class PooledNetwork:
    """ReLU of a fixed 1x1 convolution, mean over space, linear layer; it notes the size of every batch."""

    channels: int = 3
    space: tuple[int | None, ...] = (None, None)
    head: LinearHead = field(default_factory=lambda: LinearHead(values(5, 4, seed=1), values(5, seed=2)))
    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    fixed: bool = True
    gives: frozenset[str] = frozenset({"features", "head", "tail", "model"})
    second_weight: np.ndarray | None = None  # of a second classifier; then name it in ``gives``
    shift: Any = 0.0  # added to the scores, so that the head does not explain them any more
    kind: str = "numpy"
    device: str = "cpu"
    batches: list[int] = field(default_factory=list)

    @property
    def input(self) -> InputSpec:
        return InputSpec("images", (None, self.channels, *self.space))

    def features(self, images: np.ndarray) -> np.ndarray:
        mix = values(self.head.channels, self.channels, seed=3)
        return np.maximum(np.einsum("kc,nc...->nk...", mix, images), 0)

    def scores(self, images: np.ndarray) -> np.ndarray:
        features = self.features(images)
        return self.head(features.mean(axis=tuple(range(2, features.ndim)))) + np.float32(self.shift)

    def layers(self) -> Sequence[Layer]:
        return [Layer("images", (self.channels, *self.space)), Layer("relu", (self.head.channels, *self.space))]

    def tap(self, layer: str | None = None, example: np.ndarray | None = None) -> Tap:
        if layer in (None, "relu"):
            return Tap("relu", self.head, "mean -> linear")
        if layer == "images":
            return Tap("images", None, obstacle="the layer 'relu' is not linear.")
        raise InputError(f"layer {layer!r} is not known. Did you mean 'relu'?")

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
        self.batches.append(len(images))
        scores = self.scores(images)
        chosen = choose_classes(scores, classes, labels)
        taken = [images if layer == "images" else self.features(images) for layer in layers]
        return [Evidence(scores, chosen, a, self.tap(n).head) for a, n in zip(taken, layers, strict=True)]

    def tails(self, images: np.ndarray, layer: str | None = None) -> list[Callable[[np.ndarray], np.ndarray]]:
        def behind(features: np.ndarray) -> np.ndarray:
            pooled = features.mean(axis=tuple(range(2, features.ndim)))
            return self.scores(features) if layer == "images" else self.head(pooled) + np.float32(self.shift)

        return [behind for _ in images]


def explanation(
    space: tuple[int, ...] = (32, 48), maps: tuple[int, ...] = (4, 6), images: int = 2, classes: int = 1, **changes: Any
) -> Explanation:
    """Random maps of a network with five classes."""
    scores = values(images, 5, seed=1)
    given: dict[str, Any] = {
        "maps": values(images, classes, *maps, seed=2),
        "scores": scores,
        "classes": np.argsort(-scores, axis=1)[:, :classes],
        "scores_are": "logit",
        "method": "cam",
        "layer": "relu",
        "head": "mean -> linear",
        "input_size": space,
        "rectifies": False,
        "images": values(images, 3, *space, seed=3),
    }
    return Explanation(**given | changes)
