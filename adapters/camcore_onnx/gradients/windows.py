"""Where the windows of a pooling lie, along each axis of the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["Window", "fit", "windows"]

Length = int | Tensor  # a tensor where it follows the size of the images


@dataclass(frozen=True, eq=False)
class Window:
    """How windows lie along one axis.

    Attributes
    ----------
    at : Step
        The pooling.
    axis : int
    size, stride, dilation : int
        Places in a window, steps between windows, and steps between places.
    before, behind : int or Tensor
        Padding at the two ends.
    """

    at: Step
    axis: int
    size: int
    stride: int
    dilation: int
    before: Length
    behind: Length

    @property
    def taps(self) -> list[int]:
        """The places in a window, counted from its start."""
        return [self.dilation * j for j in range(self.size)]

    @property
    def reach(self) -> int:
        return self.taps[-1] + 1

    @property
    def length(self) -> int | None:
        """Of the map that is pooled."""
        return self.at.shape()[self.axis]

    @property
    def count(self) -> int | None:
        """How many windows there are."""
        return _pooled(self.at).shape[self.axis]

    @property
    def places(self) -> Length:
        """The length of the map, when the model runs."""
        return self.at.bare().length(self.axis) if self.length is None else self.length

    @property
    def windows(self) -> Tensor:
        """Their number, when the model runs."""
        return _pooled(self.at).length(self.axis)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing follows the size of the images."""
        return self.length is not None and self.count is not None

    @property
    def slides(self) -> bool:
        """Whether there is a window at each place, in one piece."""
        return self.stride == self.dilation == 1 and isinstance(self.before, int) and isinstance(self.behind, int)

    @property
    def is_trivial(self) -> bool:
        """Whether each place is a window of its own."""
        return self.size == self.stride == 1 and self.before == self.behind == 0

    @property
    def covers(self) -> bool:
        """Whether there is one window, and it holds all places."""
        if self.length is None or self.count != 1 or self.dilation != 1 or not isinstance(self.before, int):
            return False
        return self.before + self.length <= self.size

    @property
    def starts_behind(self) -> bool:
        """Whether rounding up would give one window more, which runtimes leave out."""
        ends = self.length, self.count, self.before, self.behind
        if not all(isinstance(n, int) for n in ends):
            return False
        length, count, before, behind = (int(n) for n in ends if isinstance(n, int))
        return -(-(length + before + behind - self.reach) // self.stride) + 1 > count

    def after(self, extra: int) -> Length:
        """What ``count * stride + extra`` places from the start of the padding have behind the end of the map."""
        if self.stride == 1 and isinstance(
            self.behind, int
        ):  # then the lengths of map and windows differ by a constant
            return extra - self.reach + 1 + self.behind
        if self.length is not None and self.count is not None and isinstance(self.before, int):
            return self.count * self.stride + extra - self.length - self.before
        return self.windows * self.stride + extra - self.places - self.before


def _pooled(at: Step) -> Tensor:
    """The pooled map in its own type, for its lengths."""
    value = at.node.outputs[0]
    return Tensor(at.pen, value, at.pen.facts.dtype(value), at.pen.facts.shape(value))


def windows(at: Step, kernel: Sequence[int] | None = None) -> list[Window]:
    """The windows of a pooling, axis by axis."""
    kernel = kernel or at.attribute("kernel_shape")
    assert kernel is not None  # ONNX Runtime would not have run it
    ones, rank = [1] * len(kernel), len(kernel)
    strides, dilations = at.attribute("strides", ones), at.attribute("dilations", ones)
    auto, pads = at.attribute("auto_pad", "NOTSET"), at.attribute("pads", [0] * 2 * rank)
    found = []
    for k, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        ends: tuple[Length, Length] = (0, 0) if auto == "VALID" else (pads[k], pads[k + rank])
        if auto.startswith("SAME"):
            ends = _same(at, k + 2, (size - 1) * dilation + 1, stride, lower=auto == "SAME_LOWER")
        found.append(Window(at, k + 2, size, stride, dilation, *ends))
    if at.opset < 22 and at.attribute("ceil_mode", 0) and any(w.starts_behind for w in found):
        at.refuse(
            "its last window would start behind the map (ceil_mode), and before opset 22 tools take it for longer than "
            f"it is; the model has opset {at.opset}, convert it to 22"
        )
    return found


def _same(at: Step, axis: int, reach: int, stride: int, *, lower: bool) -> tuple[Length, Length]:
    """The padding that makes ``ceil(length / stride)`` windows; an odd one goes behind, or before if ``lower``."""
    length, count = at.shape()[axis], _pooled(at).shape[axis]
    total: Length
    if stride == 1:
        total = reach - 1
    elif length is not None and count is not None:
        total = max((count - 1) * stride + reach - length, 0)
    else:
        needed = _pooled(at).length(axis) * stride + (reach - stride) - at.bare().length(axis)
        total = (needed > 0).where(needed, 0)
    half = (total + 1 if lower else total) / 2 if isinstance(total, Tensor) else (total + lower) // 2
    return half, total - half


def fit(at: Step, x: Tensor, ends: Mapping[int, tuple[Length, Length]], value: float = 0.0) -> Tensor:
    """Padded with a number at both ends of some axes; negative lengths cut off."""
    pads: list[Length] = [0] * (2 * x.rank)
    lengths: list[int | None] = list(x.shape)
    for axis, (before, after) in ends.items():
        pads[axis], pads[axis + x.rank] = before, after
        whole = lengths[axis]
        fixed = whole is not None and isinstance(before, int) and isinstance(after, int)
        lengths[axis] = sum(n for n in (whole, before, after) if isinstance(n, int)) if fixed else None
    shape = tuple(lengths)
    if all(isinstance(n, int) and n == 0 for n in pads):
        return x
    if at.opset >= 11:
        numbers = at.pen.lengths(pads)
        return at.pen.op("Pad", x, numbers, at.pen.constant(np.array(value), x.dtype), shape=shape, dtype=x.dtype)
    if not all(isinstance(n, int) for n in pads):
        at.refuse(f"images of any size need opset 11, the model has {at.opset}; convert it first")
    return at.pen.op("Pad", x, shape=shape, dtype=x.dtype, pads=pads, value=float(value))
