"""Changes of the size of maps: linear along each axis, by whatever rule of coordinates."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir

from camcore_onnx.gradients.separable import along, computed, matrix
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor

_SHIFTING = ("tf_crop_and_resize", "tf_half_pixel_for_nn")  # coordinates that may move where lengths stay
_PROBED = (1, 2, 7, 64)  # lengths that stand for all others where the scale is fixed
_OWN = ("axes", "keep_aspect_ratio_policy", "extrapolation_value")  # attributes that one axis alone does without


@rule("Resize", "Upsample", inputs=(0,))
def resize(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = R x`` along each axis, so ``R^T g`` back; where pixels are repeated, that is the sum over each block."""
    if at.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        at.refuse("it keeps the aspect ratio; expected keep_aspect_ratio_policy 'stretch'")
    if at.shape() == _after(at).shape and None not in at.shape()[1:]:
        return g  # ONNX Runtime copies what keeps its shape, whatever the scales are
    axes = [axis for axis in range(g.rank) if _moves(at, axis)]
    blocks = {axis: _repeats(at, axis) for axis in axes if axis > 1 and g.dtype == ir.DataType.FLOAT}
    blocks = {axis: n for axis, n in blocks.items() if n > 1}
    g, copied = _block_sums(g, blocks), _is_copied(at, axes)
    for axis in axes:
        if axis not in blocks:
            by = matrix(at, axis, partial(_resized, at, axis), fixed=_is_fixed(at, axis))
            if by is not None and copied is not None:
                by = copied.where(by.unary("EyeLike"), by)
            g = along(g, by, axis)
    return g


def _after(at: Step) -> Tensor:
    """The output, for its lengths."""
    y = at.node.outputs[0]
    return Tensor(at.pen, y, at.pen.facts.dtype(y), at.pen.facts.shape(y))


def _is_copied(at: Step, axes: list[int]) -> Tensor | None:
    """Whether nothing changes its length, where that shows only when the model runs; None where something does."""
    x, y = at.bare(), _after(at)
    scales = [_given(at, "scales", axis) for axis in axes]
    if _input(at, "sizes") and at.attribute("coordinate_transformation_mode") not in _SHIFTING:
        return None
    if any(None not in (n, m) and n != m for n, m in zip(x.shape, y.shape, strict=True)):
        return None
    if any(isinstance(scale, float) and scale != 1 and not 1 < scale < 2 for scale in scales):
        return None
    return x.lengths().equals(y.lengths()).unary("Not").cast(ir.DataType.FLOAT).sum(0) < 0.5


def _input(at: Step, name: str) -> int | None:
    """The place of an input, None where it is absent or empty."""
    place = {"roi": 1, "scales": 2, "sizes": 3}[name]
    if at.opset < 11:
        return 1 if name == "scales" else None
    return place if at.has(place) and at.shape(place) != (0,) else None


def _given(at: Step, name: str, axis: int, part: int = 0) -> float | Tensor | None:
    """The number for an axis, None where there is none, a tensor of one where it follows the image."""
    place, axes = _input(at, name), at.attribute("axes") or range(at.rank())
    listed = [a % at.rank() for a in axes]
    if place is None or axis not in listed:
        return None
    length = _after(at).shape[axis]
    if name == "sizes" and length is not None:
        return length
    entry, fixed = listed.index(axis) + part * len(listed), at.constant(place)
    return at.bare(place).slice(0, entry, entry + 1) if fixed is None else fixed[entry].item()


def _moves(at: Step, axis: int) -> bool:
    """Whether an axis is resized; one of free length is, unless it is the batch."""
    if at.attribute("coordinate_transformation_mode") in _SHIFTING:
        return True
    if _input(at, "sizes") is None:
        return _given(at, "scales", axis) not in (None, 1.0)
    before, after = at.shape()[axis], _after(at).shape[axis]
    return _given(at, "sizes", axis) is not None and (axis > 0 if before is None else before != after)


def _is_fixed(at: Step, axis: int) -> bool:
    numbers = [_given(at, "scales", axis), _given(at, "sizes", axis), *_roi(at, axis)]
    return not any(isinstance(n, Tensor) for n in numbers)


def _roi(at: Step, axis: int) -> tuple[float | Tensor, float | Tensor]:
    start, end = (_given(at, "roi", axis, part) for part in (0, 1))
    return 0.0 if start is None else start, 1.0 if end is None else end


def _resized(at: Step, axis: int, eye: Tensor) -> Tensor:
    """What the operator makes of the last axis of a square, as its width; the height is resized lest it is copied."""
    pen, n = eye.pen, eye.length(0) if eye.shape[0] is None else eye.shape[0]
    image = eye.reshape(n, 1, 1, n)
    about = {name: at.attribute(name) for name in at.node.attributes if name not in _OWN}
    size, scale = _given(at, "sizes", axis), _given(at, "scales", axis)
    none = pen.constant(np.zeros(0, np.float32)) if at.opset < 13 else None
    scales = none if size is not None else _row(eye, 1.0, 2.0, 1.0 if scale is None else scale)
    inputs = [scales]
    if at.opset >= 11:
        start, end = _roi(at, axis)
        roi = pen.concat([_row(eye, 0.0, 0.0, start), _row(eye, 1.0, 1.0, end)], 0) if _input(at, "roi") else none
        lengths = pen.lengths([n, 1, 2, size if isinstance(size, Tensor) else int(size)]) if size is not None else None
        inputs = [roi, scales, lengths]
    shape = (image.shape[0], 1, 2, None)
    return pen.op(at.node.op_type, image, *inputs, shape=shape, **about).slice(2, 0, 1).squeeze(1, 2)


def _row(eye: Tensor, others: float, height: float, last: float | Tensor) -> Tensor:
    """Numbers for four axes, of which the last is resized."""
    first = [others, others, height]
    if isinstance(last, Tensor):
        return eye.pen.concat([eye.pen.constant(np.array(first, np.float32)), last], 0)
    return eye.pen.constant(np.array([*first, last], np.float32))


def _repeats(at: Step, axis: int) -> int:
    """How often each pixel is repeated along an axis; 0 where the operator is another."""
    if at.attribute("mode", "nearest") != "nearest" or not _is_fixed(at, axis):
        return 0
    n, scale = at.shape()[axis], _given(at, "scales", axis)
    if n is None and not (isinstance(scale, float) and scale.is_integer()):
        return 0
    found = 0
    for length in (n,) if n is not None else _PROBED:
        array = computed(at, partial(_resized, at, axis), length)
        found = array.shape[1] // length
        if not np.array_equal(array, np.repeat(np.eye(length), found, 1)):
            return 0
    return found


def _block_sums(g: Tensor, blocks: dict[int, int]) -> Tensor:
    """Over ``n`` neighbours along some of the axes behind the channels: a mean, times their number."""
    if not blocks:
        return g
    window = [blocks.get(axis, 1) for axis in range(2, g.rank)]
    shape = (*g.shape[:2], *(None if n is None else n // k for n, k in zip(g.shape[2:], window, strict=True)))
    return g.pen.op("AveragePool", g, shape=shape, kernel_shape=window, strides=window) * float(prod(window))
