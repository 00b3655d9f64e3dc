"""Operators that move numbers without changing them: reshapes, joins, splits, repeats, borders, casts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.separable import along, matrix
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor, work_type

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_END = 2**31 - 1


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze", inputs=(0,))
def reshape(at: Step, g: Tensor, i: int) -> Tensor:
    """The same numbers in the shape of the input."""
    return g.like(at.bare())


@rule("Transpose")
def transpose(at: Step, g: Tensor, i: int) -> Tensor:
    """``y[j] = x[order[j]]``: the axes go back to where they came from."""
    order = at.ints("perm", 1) or list(range(g.rank))[::-1]
    return g.transpose(*sorted(range(g.rank), key=lambda axis: order[axis]))


@rule("Identity", "Expand", inputs=(0,), elementwise=True)
def identity(at: Step, g: Tensor, i: int) -> Tensor:
    return g


@rule("Dropout", inputs=(0,), elementwise=True)
def dropout(at: Step, g: Tensor, i: int) -> Tensor:
    """Without effect, as it is deployed; in training it draws at random."""
    training = at.need(2, "training_mode") if at.has(2) else None
    if training is not None and training.any():
        at.refuse("it is in training mode and draws at random; export the model in evaluation mode")
    return g


@rule("Cast", "CastLike", inputs=(0,), elementwise=True)
def cast(at: Step, g: Tensor, i: int) -> Tensor:
    """``g`` in the type in which the gradient of the input is computed."""
    to = at.pen.facts.dtype(at.node.outputs[0])
    if to not in _FLOATS:
        at.refuse(f"it rounds to {to.name.lower()}; expected a cast between floats")
    came = at.bare().dtype
    return g.cast(work_type(came)) if came in _FLOATS else g


@rule("Concat")
def concat(at: Step, g: Tensor, i: int) -> Tensor:
    """The part of ``g`` where the input lies."""
    axis = at.attribute("axis", 1) % g.rank
    lengths = [at.shape(j)[axis] for j in range(len(at.node.inputs))]
    before, here, after = _total(lengths[:i]), lengths[i], _total(lengths[i + 1 :])
    if before is not None and here is not None:
        return g.slice(axis, before, before + here)
    if after is not None and here is not None:
        return g.slice(axis, -after - here, -after or _END)
    if after is not None and before is not None:
        return g.slice(axis, before, -after or _END)
    if at.opset < 10:
        at.refuse(f"it joins {len(lengths)} parts of free length, which needs opset 10; convert the model first")
    start = _sum(at.pen, [at.bare(j).length(axis) for j in range(i)])
    end = start + at.bare(i).length(axis)
    return at.pen.op("Slice", g, start, end, np.array([axis]), shape=at.shape(i), dtype=g.dtype)


def _total(lengths: Sequence[int | None]) -> int | None:
    known = [n for n in lengths if n is not None]
    return sum(known) if len(known) == len(lengths) else None


def _sum(pen: Pen, lengths: Sequence[Tensor]) -> Tensor:
    total = pen.lengths([0])
    for length in lengths:
        total = total + length
    return total


@rule("Split", inputs=(0,))
def split(at: Step, g: Tensor, i: int) -> Tensor:
    """The gradients of the parts, joined; zeros where a part does not matter."""
    axis = at.attribute("axis", 0) % g.rank
    parts = [_zeros(at, j) if part is None else part.expand(at.y(j)) for j, part in enumerate(at.gradients)]
    return at.pen.concat(parts, axis)


def _zeros(at: Step, j: int) -> Tensor:
    """As long as output ``j``, in the type of its gradient."""
    output, facts = at.node.outputs[j], at.pen.facts
    return at.pen.zeros(Tensor(at.pen, output, work_type(facts.dtype(output)), facts.shape(output)))


@rule("Tile", inputs=(0,))
def tile(at: Step, g: Tensor, i: int) -> Tensor:
    """The sum over the repeats: ``g`` as ``(r0, n0, r1, n1, ...)``, summed over each ``r``."""
    repeats, x = at.constant(1), at.bare()
    lengths: list[int | Tensor] = []
    summed = []
    for axis, n in enumerate(x.shape):
        times = at.x(1).slice(0, axis, axis + 1) if repeats is None else int(repeats[axis])
        if times != 1:
            summed.append(len(lengths))
            lengths.append(times)
        lengths.append(n if n is not None else x.length(axis))
    known = tuple(n if isinstance(n, int) else None for n in lengths)
    return g.reshape(*lengths, shape=known).sum(*summed, keep=False) if summed else g


@rule("Pad")
def pad(at: Step, g: Tensor, i: int) -> Tensor:
    """Constant borders are cut off; in other modes ``y = P x`` along each axis, and ``P^T g`` back."""
    if i != 0:
        at.refuse("the number that it pads with depends on the layer; expected a fixed one")
    mode = at.attribute("mode", "constant")
    pads = at.ints("pads", 1) if at.attribute("pads") is not None or at.constant(1) is not None else None
    if pads is None:
        return _cut(at, g) if mode == "constant" else at.refuse(f"its pads in mode {mode!r} depend on the image")
    axes = at.ints("axes", 3) or list(range(g.rank))
    before, after = [0] * g.rank, [0] * g.rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[len(axes) + k]
    if mode == "constant":
        return g.pad([-n for n in before], [-n for n in after])
    for axis in range(g.rank):
        if before[axis] or after[axis]:
            g = _fold(at, g, axis, before[axis], after[axis], mode)
    return g


def _cut(at: Step, g: Tensor) -> Tensor:
    """A constant border whose widths are known only when the model runs."""
    rest = [None, at.bare(3)] if at.has(3) else []
    return at.pen.op("Pad", g, -at.x(1), *rest, shape=at.shape(), dtype=g.dtype)


def _fold(at: Step, g: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """The border of one axis added to what it was copied from."""
    pads = [0, before, 0, after]

    def padded(eye: Tensor) -> Tensor:
        n = eye.shape[1]
        shape = (n, None if n is None else n + before + after)
        if at.opset < 11:
            return eye.pen.op("Pad", eye, shape=shape, mode=mode, pads=pads)
        return eye.pen.op("Pad", eye, np.array(pads), shape=shape, mode=mode)

    return along(g, matrix(at, axis, padded), axis)


@rule("DepthToSpace")
def depth_to_space(at: Step, g: Tensor, i: int) -> Tensor:
    """Blocks of pixels become channels again: ``(b, b, C)`` in mode DCR, ``(C, b, b)`` in CRD."""
    b, x = at.attribute("blocksize"), at.bare()
    if at.attribute("mode", "DCR") == "DCR":
        return at.pen.op("SpaceToDepth", g, shape=x.shape, dtype=g.dtype, blocksize=b)
    n, channels, height, width = (k if k is not None else x.length(a) for a, k in enumerate(x.shape))
    depth = g.shape[1] if g.shape[1] is not None else g.length(1)
    lengths = (n, depth, height, b, width, b)
    blocks = g.reshape(*lengths).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, channels, height, width, shape=x.shape)


@rule("SpaceToDepth")
def space_to_depth(at: Step, g: Tensor, i: int) -> Tensor:
    """Channels become blocks of pixels again."""
    return at.pen.op("DepthToSpace", g, shape=at.shape(), dtype=g.dtype, blocksize=at.attribute("blocksize"))


@rule("Trilu", inputs=(0,))
def trilu(at: Step, g: Tensor, i: int) -> Tensor:
    """The same triangle of ``g``."""
    rest = [at.bare(1)] if at.has(1) else []
    return at.pen.op("Trilu", g, *rest, shape=g.shape, dtype=g.dtype, upper=at.attribute("upper"))


@rule("ReverseSequence", inputs=(0,))
def reverse_sequence(at: Step, g: Tensor, i: int) -> Tensor:
    """Reversed once more: each sequence goes back."""
    axes = {name: at.attribute(name) for name in ("batch_axis", "time_axis")}
    return at.pen.op("ReverseSequence", g, at.bare(1), shape=g.shape, dtype=g.dtype, **axes)
