"""Gradients, and maps made of them, as evidence: of named classes, with channels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError, MethodNotPossible
from camcore.evidence import Evidence
from camcore.layout import Layout
from camcore.methods.table import Method
from camcore.scores import Classes, choose_classes, top_count
from camcore.targets import TARGETS, Target
from camcore_onnx.axes import Axes
from camcore_onnx.gradients.build import Order
from camcore_onnx.gradients.differentiator import Differentiator
from camcore_onnx.gradients.finish import is_even
from camcore_onnx.gradients.session import Pulled
from camcore_onnx.heads import Found

__all__ = ["Observer"]

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


class Observer:
    """Evidence from gradients.

    Parameters
    ----------
    differentiator : Differentiator
    found : Found
    axes : Axes
        How the tensors hold their maps.
    scores : callable
        From images to their (N, K) scores.
    """

    def __init__(
        self, differentiator: Differentiator, found: Found, axes: Axes, scores: Callable[[Floats], Floats]
    ) -> None:
        self._differentiator, self._found, self._axes, self._scores = differentiator, found, axes, scores
        self._classes = 0

    def maps(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target,
        method: Method,
    ) -> list[Evidence]:
        """The raw maps of a method at each layer, made in the graph; of targets that have a code."""
        layouts = self._layouts(layers, images)
        if layouts is None:
            bends = "curvature" in method.needs
            return [_finished(e, method) for e in self.evidence(images, layers, classes, labels, target, bends=bends)]
        order = Order(target=target.code, method=method, layouts=layouts)
        pulled = self._differentiator(images, layers, order, classes=self._indices(images, classes, labels))
        assert pulled.classes is not None  # the graph chose them
        return [Evidence(pulled.scores, pulled.classes, maps=maps) for maps in pulled.maps]

    def _layouts(self, layers: Sequence[ir.Value], images: Floats) -> tuple[Layout, ...] | None:
        """None where a run must show how many tokens there are."""
        try:
            return tuple(self._axes.of(layer, None, images.shape[2:]) for layer in layers)
        except InputError:
            return None

    def evidence(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target | None,
        *,
        bends: bool = False,
    ) -> list[Evidence]:
        """Features and gradients (and curvature, if it ``bends``) of each layer, as the core takes them.

        Slopes that the graph cannot compute, of a user's function, are taken from the scores of a pass of its own.
        """
        goal = TARGETS["logit"] if target is None else target
        if goal.code:
            order = Order(target=goal.code, curvature=bends)
            pulled = self._differentiator(images, layers, order, classes=self._indices(images, classes, labels))
        else:
            pulled = self._by_slopes(images, layers, classes, labels, goal, bends)
        assert pulled.classes is not None  # asked for
        made = zip(layers, pulled.features, pulled.gradients, pulled.curvatures or pulled.gradients, strict=True)
        return [
            Evidence(
                pulled.scores,
                pulled.classes,
                features=self._maps(layer, features, images),
                gradients=self._maps(layer, gradients, images, like=features),
                curvature=self._maps(layer, bend, images, like=features) if bends else None,
            )
            for layer, features, gradients, bend in made
        ]

    def _maps(self, layer: ir.Value, native: Floats, images: Floats, *, like: Floats | None = None) -> Floats:
        """(N, C, *S) features, or (N, T, C, *S) gradients ``like`` them."""
        features = native if like is None else like
        tokens = features.shape[1] if features.ndim > 1 else None
        layout = self._axes.of(layer, tokens, images.shape[2:])
        short = like is not None and not is_even(native.shape[1:], like.shape, layout.kind)
        if like is not None and (short or layout.kind == "tokens"):
            native = np.broadcast_to(native, (*native.shape[:2], *like.shape[1:]))
        return layout.maps(native, lead=1 if like is None else 2)

    def _indices(self, images: Floats, classes: Classes, labels: Sequence[str] | None) -> Indices:
        """The (N, T) classes; -1 for those that are chosen by their scores."""
        count = self._count(images)
        if top_count(classes):
            return np.full((len(images), min(top_count(classes), count)), -1, np.int64)
        return choose_classes(np.zeros((len(images), count), np.float32), classes, labels)

    def _count(self, images: Floats) -> int:
        """How many classes there are: the graph tells, or a run."""
        if not self._classes:
            shape = self._found.logits.shape
            known = shape[1] if shape is not None and len(shape) > 1 else None
            self._classes = known if isinstance(known, int) else self._scores(images).shape[1]
        return self._classes

    def _by_slopes(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target,
        bends: bool,
    ) -> Pulled:
        if bends and not target.linear:
            raise MethodNotPossible(
                f"the target {target.name!r} is a function of its own, of which the graph has no second derivative: "
                "take a target by name"
            )
        scores = self._scores(images)
        chosen = choose_classes(scores, classes, labels)
        aim = target.aim(scores, chosen, alone=self._found.scores_are == "independent logit")
        pulled = self._differentiator(images, layers, Order(target=None, curvature=bends), slopes=aim.slopes())
        return replace(pulled, classes=chosen)


def _finished(evidence: Evidence, method: Method) -> Evidence:
    """The map, by NumPy."""
    given: dict[str, Any] = {need: getattr(evidence, need) for need in method.needs}
    return replace(evidence, maps=method.formula(**given, classes=evidence.classes, **method.options))
