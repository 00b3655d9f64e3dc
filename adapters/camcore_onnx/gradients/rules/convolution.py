"""Convolutions. The derivative of one that moves by single steps is another one, for which runtimes are fastest."""

from __future__ import annotations

import math

import numpy as np

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Lengths, Tensor
from camcore_onnx.gradients.windows import Window, windows


@rule("Conv", inputs=(0,))
def conv(at: Step, g: Tensor, i: int) -> Tensor:
    """By stride: a convolution with turned weights, or a transposed convolution."""
    found = windows(at, _kernel(at))
    if all(window.stride == 1 for window in found) and all(_overlap(w) is not None for w in found):
        return _by_conv(at, g, found)
    return _by_depth(at, g, found) if _is_depthwise(at) else _by_transposed(at, g, found)


def _kernel(at: Step) -> list[int]:
    lengths = at.shape(1)[2:]
    if None in lengths:
        at.refuse("the size of its kernel depends on the image")
    return [n for n in lengths if n is not None]


def _overlap(window: Window) -> tuple[int, int] | None:
    """The padding of the derivative at both ends, where it is fixed and not negative."""
    if not isinstance(window.before, int) or not isinstance(window.behind, int):
        return None
    ends = window.reach - 1 - window.before, window.reach - 1 - window.behind
    return ends if min(ends) >= 0 else None


def _by_conv(at: Step, g: Tensor, found: list[Window]) -> Tensor:
    """``dx = g * W'``: W turned around in space, with its channels in and out exchanged."""
    return _convolved(at, g, found, [ends for window in found if (ends := _overlap(window)) is not None])


def _convolved(at: Step, g: Tensor, found: list[Window], ends: list[tuple[int, int]]) -> Tensor:
    """With the turned weights, by single steps, with some padding at both ends of each axis."""
    return at.pen.op(
        "Conv",
        g,
        _turned(at),
        shape=at.shape(0),
        dtype=g.dtype,
        kernel_shape=[w.size for w in found],
        dilations=[w.dilation for w in found],
        group=at.attribute("group", 1),
        pads=[a for a, _ in ends] + [b for _, b in ends],
    )


def _turned(at: Step) -> Tensor:
    """(M, C/group, *k) weights as (C, M/group, *k), turned around; a runtime computes that once."""
    weight, groups = at.x(1), int(at.attribute("group", 1))
    out, inner, *kernel = weight.shape
    if out is None or inner is None:
        at.refuse("the number of its channels depends on the image")
    space = range(weight.rank)[2:]
    if groups == 1:
        weight = weight.transpose(1, 0, *space)
    elif inner > 1 or out > groups:
        parts = weight.reshape(groups, out // groups, inner, *kernel)
        weight = parts.transpose(0, 2, 1, *(a + 1 for a in space)).reshape(groups * inner, out // groups, *kernel)
    return flipped(weight, [a for a in space if weight.shape[a] != 1])


def flipped(x: Tensor, axes: list[int]) -> Tensor:
    """In reverse order along some axes of fixed length."""
    if not axes:
        return x
    if x.pen.opset < 10:
        for axis in axes:
            x = x.gather(np.arange(x.shape[axis] or 0)[::-1].copy(), axis)
        return x
    count = len(axes)
    bounds = [[-1] * count, [-(2**31)] * count, axes, [-1] * count]
    return x.pen.op("Slice", x, *(np.array(b, np.int64) for b in bounds), shape=x.shape, dtype=x.dtype)


def _is_depthwise(at: Step) -> bool:
    return int(at.attribute("group", 1)) > 1 and at.shape(1)[:2] == (at.attribute("group"), 1)


def _by_transposed(at: Step, g: Tensor, found: list[Window]) -> Tensor:
    """The transposed convolution; where the size of the images is free, what is too long is cut off."""
    fixed = all(w.is_fixed and isinstance(w.before, int) for w in found)
    extra = [_rest(w) if fixed else w.stride - 1 for w in found]
    if any(e < 0 for e in extra):
        at.refuse("its padding reaches beyond its windows")
    before = [w.before if fixed else 0 for w in found]
    after = [_shown(w) if fixed else 0 for w in found]
    pulled = at.pen.op(
        "ConvTranspose",
        g,
        at.x(1),
        shape=at.shape(0) if fixed else _free(at),
        dtype=g.dtype,
        kernel_shape=[w.size for w in found],
        strides=[w.stride for w in found],
        dilations=[w.dilation for w in found],
        group=at.attribute("group", 1),
        pads=[*before, *after],
        output_padding=extra,
    )
    return pulled if fixed else _cut(at, pulled, found)


def _rest(window: Window) -> int:
    """What the last window leaves over at the end of the padded map."""
    assert window.length is not None  # fixed
    assert window.count is not None
    assert isinstance(window.before, int)
    behind = _shown(window)
    return window.length + window.before + behind - window.reach - window.stride * (window.count - 1)


def _shown(window: Window) -> int:
    assert isinstance(window.behind, int)  # fixed together with the other end
    return window.behind


def _free(at: Step) -> Lengths:
    return (*at.shape(0)[:2], *[None] * (at.rank() - 2))


def _cut(at: Step, whole: Tensor, found: list[Window]) -> Tensor:
    """The map without its padding, at sizes that are known when it runs."""
    starts = at.pen.lengths([w.before for w in found])
    lengths = at.pen.lengths([at.x().length(w.axis) for w in found])
    axes = np.array([w.axis for w in found], np.int64)
    if at.opset < 10:
        at.refuse(f"images of any size need opset 10 behind a strided convolution, the model has {at.opset}")
    return at.pen.op("Slice", whole, starts, starts + lengths, axes, shape=at.shape(0), dtype=whole.dtype)


def _by_depth(at: Step, g: Tensor, found: list[Window]) -> Tensor:
    """Depthwise: runtimes have no fast transposed form, so zeros are put between the gradients, and then a Conv."""
    ends = [_spread_ends(w) for w in found]
    if at.opset < 11 or any(end is None or min(end) < 0 for end in ends):
        return _by_transposed(at, g, found)
    return _convolved(at, _spread(at, g, found), found, [end for end in ends if end is not None])


def _spread_ends(window: Window) -> tuple[int, int] | None:
    """The padding of the convolution over the gradients with zeros between; None where it is not fixed."""
    if window.length is None or window.count is None or not isinstance(window.before, int):
        return None
    before = window.reach - 1 - window.before
    return before, window.length + window.reach - 1 - window.stride * window.count - before


def _spread(at: Step, g: Tensor, found: list[Window]) -> Tensor:
    """Each number at the start of a block as long as the stride, with zeros behind: repeated, then masked."""
    lengths = [w.stride * w.count for w in found if w.count is not None]
    scales = np.array([1, 1, *(w.stride for w in found)], np.float32)
    about = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    roi = None if at.opset >= 13 else np.zeros(0, np.float32)
    repeated = at.pen.op("Resize", g, roi, scales, shape=(*g.shape[:2], *lengths), dtype=g.dtype, **about)
    mask = np.zeros(lengths)
    mask[tuple(slice(None, None, w.stride) for w in found)] = 1
    return repeated * mask


@rule("ConvTranspose", inputs=(0,))
def conv_transpose(at: Step, g: Tensor, i: int) -> Tensor:
    """The convolution with the same weights."""
    rank = at.rank() - 2
    pads = at.attribute("pads", [0] * 2 * rank)
    if at.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or at.attribute("output_shape") is not None:
        pads = _pads_of(at, rank)
    return at.pen.op(
        "Conv",
        g,
        at.x(1),
        shape=at.shape(0),
        dtype=g.dtype,
        kernel_shape=_kernel(at),
        strides=at.attribute("strides"),
        dilations=at.attribute("dilations"),
        group=at.attribute("group", 1),
        pads=list(pads),
    )


def _pads_of(at: Step, rank: int) -> list[int]:
    """What is cut off so that the result has the shape asked for; the odd one behind, but before for SAME_LOWER."""
    ones = [1] * rank
    before, after = [], []
    for k, size in enumerate(_kernel(at)):
        stride, dilation = at.attribute("strides", ones)[k], at.attribute("dilations", ones)[k]
        extra = at.attribute("output_padding", [0] * rank)[k]
        length, result = at.shape(0)[k + 2], at.y().shape[k + 2]
        if length is None or result is None:
            at.refuse("it is given a shape of its result, and images may have any size; fix their size")
        total = stride * (length - 1) + extra + dilation * (size - 1) + 1 - result
        if total < 0:
            at.refuse("its result is longer than its windows reach")
        front = total // 2 if at.attribute("auto_pad", "NOTSET") == "SAME_UPPER" else total - total // 2
        before.append(front)
        after.append(total - front)
    return before + after


@rule("Col2Im", inputs=(0,))
def columns(at: Step, g: Tensor, i: int) -> Tensor:
    """The windows are cut out again: a convolution with one weight of one for each place in a window."""
    image, block = ([int(n) for n in at.need(j, what)] for j, what in ((1, "image_shape"), (2, "block_shape")))
    places = math.prod(block)
    weights = np.eye(places, dtype=g.dtype.numpy()).reshape(places, 1, *block)
    given = {name: at.attribute(name) for name in ("dilations", "pads", "strides")}
    shape = (None, places, *[None] * len(block))
    maps = g.reshape(-1, 1, *image)
    return at.pen.op("Conv", maps, weights, shape=shape, dtype=g.dtype, kernel_shape=block, **given).like(at.bare())
