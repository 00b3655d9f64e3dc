"""DeepLIFT through the network behind a layer: what each channel gives the scores, compared with features of zero.

The operations behind the layer are done again, on the features of the images and on zeros side by side. Linear ones
are differentiated as they are. In place of the derivative of a function of one number, as ReLU is, stands its
difference quotient between the two sides, and of a maximum likewise; so what is pulled back to the layer are
DeepLIFT's multipliers, by the rescale rule (A. Shrikumar et al., "Learning important features through propagating
activation differences", ICML 2017, arXiv:1704.02685).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from camcore_torch.steps import array
from camcore_torch.tails import Record
from camcore_torch.views import flat

__all__ = ["contributions"]

Floats = NDArray[np.floating[Any]]
Pair = tuple[Any, Any]  # of the images, with a graph, and of the reference
Run = Callable[[Tensor], Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Linear in all tensors that come from the layer, however many.
_SUMS = _names("""
    add sub rsub neg cat stack mean sum cumsum where masked_fill copy clone _to_copy view _unsafe_view _reshape_alias
    t transpose permute expand squeeze unsqueeze slice select split split_with_sizes unbind unfold repeat index
    index_select gather roll flip rot90 diagonal pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    im2col col2im constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d
    _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_trilinear3d
""")

# Linear where at most one of these arguments comes from the layer.
_PRODUCTS = dict.fromkeys(_names("mul mm bmm mv dot convolution"), (0, 1))
_PRODUCTS |= dict.fromkeys(_names("addmm addmv baddbmm addbmm addcmul"), (1, 2))

# Linear in the first argument; the second ones only where they do not look at their batch.
_FIRST = _names("div _native_batch_norm_legit_no_training")
_BATCH_NORMS = _names("native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit")

# Functions of one number at a time.
_CURVES = _names("""
    relu leaky_relu _prelu_kernel threshold elu celu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid
    hardshrink softshrink softplus clamp clamp_min clamp_max maximum minimum exp expm1 exp2 log log1p sqrt rsqrt abs
    pow reciprocal sin cos atan erf
""")
_MAXIMA = _names("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d")

# What a replayed value may lie in memory in another way for.
_RELAXED = {op.default: torch.ops.aten.reshape.default for op in (torch.ops.aten.view, torch.ops.aten._unsafe_view)}


def contributions(record: Record, aim: Aim, layout: Layout, tolerance: float, *, few: int = 8) -> Floats:
    """What each channel gives the target of each class, (N, T, C).

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
    shares = multipliers * array(layer)[:, None]
    maps = layout.maps(shares, lead=2)
    parts = maps.sum(axis=tuple(range(3, maps.ndim)), dtype=np.float64).astype(shares.dtype)
    return parts, shares.sum(axis=tuple(range(2, shares.ndim)), dtype=np.float64)


def _check_sums(sums: Floats, aim: Aim, scores: Floats, reference: Floats, tolerance: float) -> None:
    """The shares must add up to what the target of the whole network's scores loses."""
    slopes = aim.slopes()
    losses = np.einsum("ntk,nk->nt", slopes, scores.astype(np.float64) - reference)
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
        if not wanted.isdisjoint(call.results) and not live.isdisjoint(call.sources):
            way.append((call, set(call.sources) - wanted))
            wanted.update(call.sources)
    return way


def _step(call: Call, values: dict[int, Pair], originals: dict[int, Tensor]) -> list[Pair]:
    """The results of one operation on both sides."""
    args, kwargs = _filled(call, values, originals)
    places = [i for i, arg in enumerate(args) if any(isinstance(leaf, _Live) for leaf in tree_leaves(arg))]
    if call.name in ("detach", "alias"):
        return [args[0].pair]
    if call.name in _CURVES | _MAXIMA:
        if len(places) != 1:
            raise _no_rule(call, " of two values that both come from it")
        place = places[0]

        def run(value: Tensor) -> Any:
            return _called(call, (*args[:place], value, *args[place + 1 :]), kwargs)

        return _curve(run, *args[place].pair) if call.name in _CURVES else _maximum(run, *args[place].pair)
    _check_linear(call, places)
    own = _called(call, *_side(0, (args, kwargs)))
    with torch.no_grad():
        other = _called(call, *_side(1, (args, kwargs)))
    return list(zip(_tensors(own), _tensors(other), strict=True))


class _Live:
    """Stands in the arguments of an operation for a value that comes from the layer."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair


def _filled(call: Call, values: dict[int, Pair], originals: dict[int, Tensor]) -> tuple[Any, Any]:
    sources = iter(call.sources)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        source = next(sources)
        return _Live(values[source]) if source in values else originals.get(source, leaf).detach()

    filled: tuple[Any, Any] = tree_map(fill, (call.args, call.kwargs))
    return filled


def _side(which: int, arguments: Any) -> Any:
    return tree_map(lambda leaf: leaf.pair[which] if isinstance(leaf, _Live) else leaf, arguments)


def _called(call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of the operation; what it would overwrite is copied first."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in call.func._schema.arguments]
    fresh = [a.clone() if w and isinstance(a, Tensor) else a for a, w in zip(args, written, strict=False)]
    return _RELAXED.get(call.func, call.func)(*fresh, **kwargs)


def _tensors(results: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]


def _check_linear(call: Call, places: Sequence[int]) -> None:
    if call.name in _SUMS:
        return
    if call.name in _PRODUCTS:
        if len(set(_PRODUCTS[call.name]).intersection(places)) > 1:
            raise _no_rule(call, " of two values that both come from it")
    elif call.name in _BATCH_NORMS and call.args[5]:
        raise _no_rule(call, " with the statistics of the batch")
    elif call.name not in _FIRST | _BATCH_NORMS or places != [0]:
        raise _no_rule(call)


def _no_rule(call: Call, why: str = "") -> MethodNotPossible:
    return MethodNotPossible(
        f"on the way from the layer to the scores there is {call.name!r}{why}, for which DeepLIFT has no rule here; "
        "choose a layer behind it, or a method that runs or differentiates the network: ablationcam, gradcam"
    )


def _curve(run: Run, x: Tensor, x0: Tensor) -> list[Pair]:
    """A function of one number at a time: its slope is ``(f(x) - f(x0)) / (x - x0)``; ``f'`` where they are close."""
    with torch.no_grad():
        y, y0 = run(x), run(x0)
        wide, wide0 = x.expand_as(y), x0.expand_as(y)
        step = wide - wide0
        close = step.abs() <= torch.finfo(x.dtype).eps ** 0.5 * torch.maximum(wide.abs(), wide0.abs())
        slope = (y - y0) / step.masked_fill(close, 1)
        if close.any():
            slope = torch.where(close, _derivative(run, (wide + wide0) / 2), slope)
    return [(y + slope * (x - x.detach()), y0)]


def _derivative(run: Run, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        return torch.autograd.grad(run(x).sum(), x)[0]


def _maximum(run: Run, x: Tensor, x0: Tensor) -> list[Pair]:
    """A window's maximum: a rise from y0 to y is all due to the greatest of x, a fall to the greatest of x0."""
    with torch.no_grad():
        (y, at), (y0, at0) = run(x), run(x0)
    index = torch.where(y >= y0, at, at0).flatten(2)
    chosen, chosen0 = (side.flatten(2).gather(2, index).view_as(y) for side in (x, x0))
    step = chosen.detach() - chosen0
    slope = torch.where(step == 0, 1, (y - y0) / step.masked_fill(step == 0, 1))  # never above 1
    return [(y + slope * (chosen - chosen.detach()), y0), (at, at0)]
