"""The rules of DeepLIFT: linear operations pass, for some others stand slopes between two sides, the rest is refused.

The sides are the values of the images and those of the reference. The rule is the one called rescale: A. Shrikumar et
al., "Learning important features through propagating activation differences", ICML 2017, arXiv:1704.02685.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from camcore.errors import MethodNotPossible
from camcore_torch.record import Call

__all__ = ["CURVES", "MAXIMA", "check_linear", "curve", "maximum", "no_rule"]

Pair = tuple[Any, Any]
Run = Callable[[Tensor], Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Linear in all tensors that come from the layer, however many.
_SUMS = _names("""
    add sub rsub neg cat stack mean sum cumsum where masked_fill copy clone _to_copy view _unsafe_view _reshape_alias
    t transpose permute expand squeeze unsqueeze slice select split split_with_sizes unbind unfold repeat index
    index_select gather roll flip pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im
    constant_pad_nd zeros_like ones_like full_like new_zeros new_ones new_full
""")
_FAMILIES = (
    "avg_pool",
    "adaptive_avg_pool",
    "_adaptive_avg_pool",
    "upsample",
    "_upsample",
    "reflection",
    "replication",
)

# Linear where at most one of these arguments comes from the layer.
_PRODUCTS = dict.fromkeys(_names("mul mm bmm mv dot convolution"), (0, 1))
_PRODUCTS |= dict.fromkeys(_names("addmm addmv baddbmm addbmm addcmul"), (1, 2))

# Linear in the first argument; the second ones only where they do not look at their batch.
_FIRST = _names("div _native_batch_norm_legit_no_training")
_BATCH_NORMS = _names("native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit")

# Functions of one number at a time.
CURVES = _names("""
    relu leaky_relu _prelu_kernel threshold elu celu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid
    hardshrink softshrink softplus clamp clamp_min clamp_max maximum minimum exp expm1 exp2 log log1p sqrt rsqrt abs
    pow reciprocal sin cos atan erf
""")
MAXIMA = _names("max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d")


def check_linear(call: Call, places: Sequence[int]) -> None:
    """Raise for an operation that is not linear in its arguments ``places``, which come from the layer."""
    if call.name in _SUMS or call.name.startswith(_FAMILIES):
        return
    if call.name in _PRODUCTS:
        if sum(place in _PRODUCTS[call.name] for place in places) > 1:
            raise no_rule(call, " of two values that both come from it")
    elif call.name in _BATCH_NORMS and call.args[5]:
        raise no_rule(call, " with the statistics of the batch")
    elif call.name not in _FIRST | _BATCH_NORMS or places != [0]:
        raise no_rule(call)


def no_rule(call: Call, why: str = "") -> MethodNotPossible:
    """The error for an operation that DeepLIFT does not pass."""
    return MethodNotPossible(
        f"on the way from the layer to the scores there is {call.name!r}{why}, for which DeepLIFT has no rule here; "
        "choose a layer behind it, or a method that runs or differentiates the network: ablationcam, gradcam"
    )


def curve(run: Run, x: Tensor, x0: Tensor) -> list[Pair]:
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


def maximum(run: Run, x: Tensor, x0: Tensor) -> list[Pair]:
    """A window's maximum: a rise from y0 to y is all due to the greatest of x, a fall to the greatest of x0."""
    with torch.no_grad():
        (y, at), (y0, at0) = run(x), run(x0)
    index = torch.where(y >= y0, at, at0).flatten(2)
    chosen, chosen0 = (side.flatten(2).gather(2, index).view_as(y) for side in (x, x0))
    step = chosen.detach() - chosen0
    slope = torch.where(step == 0, 1, (y - y0) / step)  # never above 1
    return [(y + slope * (chosen - chosen.detach()), y0), (at, at0)]
