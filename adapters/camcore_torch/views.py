"""One pass forward, and back where derivatives are wanted: values of layers, scores, gradients, curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camcore.errors import InputError, MethodNotPossible
from camcore.evidence import Evidence
from camcore.layout import Layout
from camcore.targets import Aim
from camcore_torch.gradients import curvatures, gradients
from camcore_torch.steps import array
from camcore_torch.study import Point
from camcore_torch.watch import Sight, watching

__all__ = ["DERIVATIVES", "View", "evidence_of", "flat", "look", "rows"]

Floats = NDArray[np.floating[Any]]
DERIVATIVES = frozenset({"gradients", "curvature"})


@dataclass(frozen=True, eq=False)
class View:
    """The (N, K) scores of a pass, with a graph where one was built, and what was seen at each point."""

    scores: Tensor
    sights: list[Sight]

    def values(self) -> list[Tensor]:
        """The layers' values."""
        return [_met(sight.value) for sight in self.sights]

    def edges(self) -> list[GradientEdge]:
        """Where the gradients of the layers arrive."""
        if any(sight.edge is None for sight in self.sights):
            raise MethodNotPossible(
                "no gradient arrives at the layer: the network detaches it, or the scores do not depend on it"
            )
        return [sight.edge for sight in self.sights if sight.edge is not None]


def _met(value: Tensor | None) -> Tensor:
    if value is None:
        raise InputError("the network took another way than in the first call, so the layer was not met")
    return value


def look(
    model: nn.Module, points: Sequence[Point], logits: Point | None, run: Callable[[], Tensor], *, grad: bool = False
) -> View:
    """Run the model and look at some points.

    Parameters
    ----------
    model : nn.Module
    points : sequence of Point
    logits : Point or None
        Where the scores before a final softmax are; None where ``run`` gives them.
    run : callable
        Makes the forward pass.
    grad : bool
        Build a graph from the first point on.
    """
    watched = [*points, *([] if logits is None else [logits])]
    if not watched:
        return View(flat(run()), [])
    with watching(model, watched, grad=grad) as sights:
        output = run()
    if grad and not _differentiable(output, sights, logits):
        with watching(model, watched, grad=True, insist=True) as sights:
            output = run()
    if logits is None:
        return View(flat(output), sights)
    _met(sights[-1].value)
    scores = sights[-1].tensor if grad else sights[-1].value
    assert scores is not None  # met
    return View(flat(scores), sights[:-1])


def _differentiable(output: Tensor, sights: Sequence[Sight], logits: Point | None) -> bool:
    """Whether gradients of the scores arrive at all layers. Not where the network itself switches them off between."""
    scores, layers = (output, sights) if logits is None else (sights[-1].tensor, sights[:-1])
    if scores is None or any(sight.value is None for sight in layers):
        return True  # another way than in the first call: a second pass would not help
    edges = [sight.edge for sight in layers if sight.edge is not None]
    return scores.requires_grad and len(edges) == len(layers) and _arrive(scores, edges)


def _arrive(scores: Tensor, edges: Sequence[GradientEdge]) -> bool:
    """Whether a backward pass from the scores comes by all of these places."""
    missing = {edge.node for edge in edges}
    queue = [get_gradient_edge(scores).node]
    seen = set(queue)
    while queue and missing:
        node = queue.pop()
        missing.discard(node)
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        queue += new
    return not missing


def evidence_of(view: View, aim: Aim, needs: frozenset[str], layouts: Sequence[Layout]) -> list[Evidence]:
    """What was asked for, channels first: one Evidence a point."""
    scores, values = rows(view.scores), view.values()
    none: list[Any] = [None] * len(values)
    slopes = gradients(view.scores, view.edges(), aim) if "gradients" in needs else none
    bends = curvatures(view.scores, view.edges(), values, aim) if "curvature" in needs else none
    return [
        Evidence(
            scores,
            aim.classes,
            features=layout.maps(array(value)) if "features" in needs else None,
            gradients=None if slope is None else layout.maps(slope, lead=2),
            curvature=None if bend is None else layout.maps(bend, lead=2),
        )
        for value, slope, bend, layout in zip(values, slopes, bends, layouts, strict=True)
    ]


def flat(scores: Tensor) -> Tensor:
    """(N, K), whatever axes of length one follow."""
    if scores.ndim > 2 and any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"the scores have shape {tuple(scores.shape)}; expected (N, K)")
    with torch.set_grad_enabled(scores.requires_grad):  # under no_grad a view would lose the graph
        return scores if scores.ndim == 2 else scores.reshape(len(scores), -1)


def rows(scores: Tensor) -> Floats:
    """(N, K) float32 scores."""
    return array(flat(scores)).astype(np.float32, copy=False)
