"""DeepLIFT through the network behind a layer: what each channel gives the scores, compared with features of zero.

The operations behind the layer are done again, on the features of the images and on zeros side by side. Linear ones
are differentiated as they are. In place of the derivative of a function of one number, as ReLU is, stands its
difference quotient between the two sides, and of a maximum likewise; so what is pulled back to the layer are
DeepLIFT's multipliers, by the rescale rule (A. Shrikumar et al., "Learning important features through propagating
activation differences", ICML 2017, arXiv:1704.02685).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_leaves, tree_map

from camcore.errors import MethodNotPossible
from camcore.layout import Layout
from camcore.targets import Aim
from camcore_torch.gradients import gradients
from camcore_torch.record import Call
from camcore_torch.rules import CURVES, MAXIMA, check_linear, curve, maximum, no_rule
from camcore_torch.steps import array
from camcore_torch.tails import LOOKS, RELAXED, Record
from camcore_torch.views import flat

__all__ = ["contributions"]

Floats = NDArray[np.floating[Any]]
Pair = tuple[Any, Any]  # of the images, with a graph, and of the reference


def contributions(record: Record, aim: Aim, layout: Layout, tolerance: float, *, few: int = 8) -> Floats:
    """What each channel gives the target of each class, (N, T, C): ``sum_u m_k(u) A_k(u)`` with multipliers m.

    Parameters
    ----------
    record : Record
        Of the network behind the layer, in a pass of all images. It is used up.
    aim : Aim
        Of a target that is linear in the scores.
    layout : Layout
        Of the layer. The reference is zero in all of the layer, also in tokens that are not of the picture, whose
        share no channel gets. What comes past the layer is the same on both sides.
    tolerance : float
        Relative difference that the arithmetic explains.
    few : int
        Classes whose multipliers, each as large as the layer, are held at a time.

    Raises
    ------
    MethodNotPossible
        If the operations behind the layer have no rule, or the shares do not add up to what the target loses.
    """
    recorder = record.recorder
    before = array(flat(record.original(record.scores, recorder.tensors[record.scores])))
    layer = record.original(record.layer, recorder.tensors[record.layer]).detach().clone().requires_grad_(True)
    with torch.enable_grad():
        scores, reference = (flat(side) for side in _replayed(record, layer))
    shares = [
        _shares(scores, layer, replace(aim, classes=aim.classes[:, s], references=aim.references[:, s]), layout)
        for s in (slice(i, i + few) for i in range(0, aim.classes.shape[1], few))
    ]
    _check_sums(np.concatenate([total for _, total in shares], axis=1), aim, before, array(reference), tolerance)
    return np.concatenate([parts for parts, _ in shares], axis=1)


def _shares(scores: Tensor, layer: Tensor, aim: Aim, layout: Layout) -> tuple[Floats, Floats]:
    """Multipliers times features: their (N, T, C) sums over the positions, and the (N, T) sums over everything."""
    (multipliers,) = gradients(scores, [get_gradient_edge(layer)], aim)
    features = array(layer)
    shares = multipliers * features.astype(np.result_type(features.dtype, np.float32), copy=False)[:, None]
    maps = layout.maps(shares, lead=2)
    parts = maps.sum(axis=tuple(range(3, maps.ndim)), dtype=np.float64).astype(shares.dtype)
    return parts, shares.sum(axis=tuple(range(2, shares.ndim)), dtype=np.float64)


def _check_sums(sums: Floats, aim: Aim, scores: Floats, reference: Floats, tolerance: float) -> None:
    """The shares must add up to what the target of the whole network's scores loses."""
    slopes, scores, reference = aim.slopes(), scores.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a reference may have no finite scores
        losses = np.einsum("ntk,nk->nt", slopes, scores - reference)
        sizes = np.einsum("ntk,nk->nt", np.abs(slopes), np.maximum(np.abs(scores), np.abs(reference)))
    if not (np.abs(sums - losses) <= tolerance * sizes).all():
        raise MethodNotPossible(
            f"the shares of the channels by DeepLIFT differ by {np.abs(sums - losses).max():.3g} from what the target "
            f"loses with features of zero (scores up to {sizes.max():.3g}); choose another layer, or ablationcam"
        )


def _replayed(record: Record, layer: Tensor) -> Pair:
    """The scores of a layer's values, with multipliers where derivatives would be, and those of zeros.

    What was recorded is let go on the way, so that it is not held twice.
    """
    way, originals = _way(record), record.recorder.originals
    values: dict[int, Pair] = {record.layer: (layer, torch.zeros_like(layer))}
    record.recorder.calls.clear()
    record.recorder.tensors.clear()
    while way:
        call, done = way.pop()
        values.update(zip(call.results, _step(call, values, originals), strict=True))
        for number in done:
            values.pop(number, None)
    return values[record.scores]


def _way(record: Record) -> list[tuple[Call, set[int]]]:
    """The operations from the layer to the scores, last one first, each with the values that no later one reads."""
    live, wanted = record.recorder.depends_on(record.layer), {record.scores}
    if record.scores not in live:
        raise MethodNotPossible("the scores do not depend on the layer: choose another layer")
    way = []
    for call in reversed(record.recorder.calls):
        if call.name in LOOKS and not live.isdisjoint(call.sources):
            raise no_rule(call, ", which looks at values")
        if not wanted.isdisjoint(call.results) and not live.isdisjoint(call.sources):
            way.append((call, set(call.sources) - wanted))
            wanted.update(call.sources)
    return way


def _step(call: Call, values: dict[int, Pair], originals: dict[int, Tensor]) -> list[Pair]:
    """The results of one operation on both sides."""
    places = _places(call, values)
    args, others = (_filled(call, values, originals, side) for side in (0, 1))
    if call.name in ("detach", "alias"):
        return [(args[0][0], others[0][0])]
    if call.name not in CURVES | MAXIMA:
        check_linear(call, places)
        own = _called(call, *args)
        with torch.no_grad():
            other = _called(call, *others)
        return [pair for pair in zip(tree_leaves(own), tree_leaves(other), strict=True) if isinstance(pair[0], Tensor)]
    if len(places) != 1:
        raise no_rule(call, " of two values that both come from it")
    (place,), (own, kwargs), rule = places, args, curve if call.name in CURVES else maximum
    return rule(lambda x: _called(call, (*own[:place], x, *own[place + 1 :]), kwargs), own[place], others[0][place])


def _places(call: Call, values: dict[int, Pair]) -> list[int]:
    """Which arguments come from the layer."""
    sources = iter(call.sources)
    live = [[next(sources) in values for leaf in tree_leaves(arg) if isinstance(leaf, Tensor)] for arg in call.args]
    return [place for place, any_of in enumerate(live) if any(any_of)]


def _filled(call: Call, values: dict[int, Pair], originals: dict[int, Tensor], side: int) -> tuple[Any, Any]:
    """The arguments on one side."""
    sources = iter(call.sources)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        source = next(sources)
        return values[source][side] if source in values else originals.get(source, leaf).detach()

    filled: tuple[Any, Any] = tree_map(fill, (call.args, call.kwargs))
    return filled


def _called(call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of the operation; what it would overwrite is copied first."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in call.func._schema.arguments]
    fresh = [a.clone() if w and isinstance(a, Tensor) else a for a, w in zip(args, written, strict=False)]
    return RELAXED.get(call.func, call.func)(*fresh, **kwargs)
